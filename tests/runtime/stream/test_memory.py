"""Memory goes back to the system, and garbage is found, while a stream runs."""

import ctypes
import gc
import threading
import weakref
from pathlib import Path

import pytest

from ssd_edge.runtime.stream import memory
from ssd_edge.runtime.stream.memory import memory_kept_small
from tests.fakes.scripted_sources import wait_for

MIB = 2**20


class Node:
    """Refers to itself."""

    def __init__(self) -> None:
        self.me = self


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / MIB


@pytest.mark.skipif(memory._malloc_trim() is None, reason="no glibc")
def test_what_is_freed_below_what_is_used_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = (
        ctypes.c_void_p,
        [ctypes.c_size_t],
        [ctypes.c_void_p],
    )
    blocks = [libc.malloc(MIB // 16) for _ in range(16 * 64)]  # each too small to be mapped by itself
    for block in blocks:
        ctypes.memset(block, 1, MIB // 16)
    last = libc.malloc(MIB // 16)  # holds the heap's end where it is
    for block in blocks:
        libc.free(block)
    before = resident_mib()
    monkeypatch.setattr(memory, "GIVE_BACK_S", 0.01)
    with memory_kept_small():
        wait_for(lambda: resident_mib() < before - 40)
    libc.free(last)


def test_modules_are_left_out_of_the_search_for_garbage_while_it_is_open() -> None:
    frozen, threads = gc.get_freeze_count(), threading.active_count()
    with memory_kept_small():
        assert gc.get_freeze_count() > frozen + 10_000  # NumPy and OpenCV alone have more
        node = weakref.ref(Node())
        gc.collect()
        assert node() is None
    assert gc.get_freeze_count() == 0
    assert threading.active_count() == threads


def test_without_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert memory._malloc_trim() is None
    with memory_kept_small():
        pass
