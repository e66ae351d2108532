"""A long call of TensorRT in a thread, so that Ctrl-C works."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

POLL_S = 0.1  # how soon Ctrl-C is noticed while TensorRT builds
Result = TypeVar("Result")


def in_thread(work_of: Callable[[], Result], cancel: Callable[[], None] = lambda: None) -> Result:
    """Call TensorRT from another thread, and wait for it.

    Python sees Ctrl-C in the main thread alone, and there only between two lines of Python: not while TensorRT works,
    or else in the middle of its logger, whose exception crashes it.

    Args:
        cancel: called when the wait is interrupted, to make TensorRT end early; the wait goes on until it does.
    """
    results: list[Result] = []
    errors: list[BaseException] = []
    done = threading.Event()  # not Thread.join, which forgets a thread where it is interrupted (bpo-45274)

    def work() -> None:
        try:
            results.append(work_of())
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=work, name="tensorrt", daemon=True)
    try:
        thread.start()
        while not done.wait(POLL_S):
            pass
    except BaseException:
        cancel()
        if thread in threading.enumerate():
            done.wait()  # a thread inside TensorRT crashes a Python that ends
        raise
    if errors:
        raise errors[0]
    return results[0]
