"""When a stream is to end, and the signals that ask for it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

END_S = 3.5  # from the wish to end until every output is complete, or given up
ONE_WISH_S = 0.3  # signals that follow each other sooner are one: some programs send it to us and then to all of us


class Stop:
    """Whether the stream is to end, and what is left of the time for that."""

    def __init__(self) -> None:
        self._ends_at: float | None = None

    @property
    def requested(self) -> bool:
        """Somebody has asked to end."""
        return self._ends_at is not None

    def request(self, within_s: float = END_S) -> None:
        """Takes no lock, so that a signal handler may call it."""
        if self._ends_at is None:
            self._ends_at = time.monotonic() + within_s

    def time_left_s(self) -> float | None:
        """None while nobody has asked to end."""
        return None if self._ends_at is None else self._ends_at - time.monotonic()


@contextmanager
def on_stop_signal(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` at the first SIGINT or SIGTERM; the second ends the process at once, whatever hangs."""
    if threading.current_thread() is not threading.main_thread():  # Python handles signals there alone
        yield
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}
    asked_at: float | None = None

    def handle(number: int, _: FrameType | None) -> None:
        nonlocal asked_at
        if asked_at is None:
            asked_at = time.monotonic()
            stop()
        elif time.monotonic() - asked_at > ONE_WISH_S:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    for number in signals:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
