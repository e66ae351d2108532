"""Memory of a process that runs for months: what is not needed goes back to the system soon."""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

GIVE_BACK_S = 10.0  # takes less than a millisecond
HEAPS = 2  # that a stream's threads share
M_ARENA_MAX = -8  # glibc's malloc.h


@contextmanager
def memory_kept_small() -> Iterator[None]:
    """While this is open, the process's memory follows what it uses.

    Python looks for cycles among old objects only once the new ones are a quarter of them. Modules are hundreds of
    thousands, so that garbage would grow for hours; they are left out of that (`gc.freeze`).

    The C library keeps what is freed for as long as anything above it in its heap is used, in every thread's heap: each
    time that more frames than ever wait at once, memory would grow for good. With glibc, free pages in between are
    given back (`malloc_trim`).
    """
    gc.collect()
    gc.freeze()
    trim, end = malloc_trim(), threading.Event()

    def give_back() -> None:
        while trim is not None and not end.wait(GIVE_BACK_S):
            trim(0)

    thread = threading.Thread(target=give_back, name="memory", daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()
        gc.unfreeze()


def malloc_trim() -> Callable[[int], int] | None:
    """The C library's `malloc_trim`, which gives free pages back; None where it has none, as without glibc."""
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library, another system
        return None
    return found


def limit_heaps(count: int = HEAPS) -> bool:
    """Let all threads of the process share so many heaps of the C library; False without glibc.

    Else there are up to eight per core. Something small that is used keeps whole pages in each of them, and a source
    that begins again has new threads: it would take memory long to settle. To be called before libraries start
    threads: glibc keeps the heaps that there are.
    """
    try:
        return bool(ctypes.CDLL(None).mallopt(M_ARENA_MAX, count))
    except (AttributeError, OSError, TypeError):
        return False
