"""Ctrl-C and SIGTERM ask a training to stop; the step under way ends whole."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def stop_requests() -> Iterator[list[int]]:
    """A list that receives the signal at Ctrl-C or SIGTERM; a second one interrupts at once."""
    requests: list[int] = []

    def on_signal(number: int, _: Any) -> None:
        if requests:
            raise KeyboardInterrupt
        requests.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield requests  # Python delivers signals to the main thread only
        return
    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    before[signal.SIGCHLD] = signal.getsignal(signal.SIGCHLD)
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_dead_children_to_the_loader() -> None:
    """Take away the handler that torch's loader sets when it starts its processes; `stop_requests` puts it back.

    It raises wherever the main thread is, also in the middle of a step. Without it a process that died shows when a
    batch is asked for, and what is saved then is whole.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
