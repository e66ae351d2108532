"""Memory goes back to the system, and garbage is found, while a stream runs."""

import ctypes
import gc
import json
import subprocess
import sys
import textwrap
import threading
import weakref
from pathlib import Path

import pytest

from ssd_edge.runtime.stream import memory
from ssd_edge.runtime.stream.memory import memory_kept_small
from tests.fakes.scripted_sources import wait_for
from tests.runtime.stream.streams import write_video

MIB = 2**20


class Node:
    """Refers to itself."""

    def __init__(self) -> None:
        self.me = self


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / MIB


@pytest.mark.skipif(memory.malloc_trim() is None, reason="no glibc")
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


@pytest.mark.skipif(memory.malloc_trim() is None, reason="no glibc")
def test_threads_share_a_few_heaps() -> None:
    script = """
        import ctypes, sys, threading
        from ssd_edge.runtime.stream.memory import limit_heaps
        if sys.argv[1] == "limited":
            assert limit_heaps()
        libc = ctypes.CDLL(None)
        libc.malloc.restype = ctypes.c_void_p
        together = threading.Barrier(9)
        heaps = set()  # each begins at a multiple of 64 MiB, but for the first one

        def work():
            heaps.add(libc.malloc(1000) >> 26)
            together.wait()

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        together.wait()
        print(len(heaps))
    """
    heaps = {}
    for case in ("limited", "as it is"):
        command = [sys.executable, "-c", textwrap.dedent(script), case]
        heaps[case] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert heaps["limited"] <= memory.HEAPS < heaps["as it is"]


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
    assert memory.malloc_trim() is None
    assert not memory.limit_heaps()
    with memory_kept_small():
        pass


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc")
def test_memory_stays_flat(tmp_path: Path, model_path: Path) -> None:
    source = write_video(tmp_path / "in.avi", 6000)
    script = """
        import json, os, sys
        from pathlib import Path
        from ssd_edge.runtime.sinks.base import Sink
        from ssd_edge.runtime.stream.config import StreamConfig
        from ssd_edge.runtime.stream.run import run_stream

        class Memory(Sink):
            needs_drawing = False
            megabytes = []

            def write(self, result, drawn_bgr):
                if result.frame.index % 100 == 0:
                    pages = int(Path("/proc/self/statm").read_text().split()[1])
                    self.megabytes.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)

        source, model, video, lines = sys.argv[1:]
        config = StreamConfig(source, Path(model), save=Path(video), jsonl=lines, threads=1)
        run_stream(config, extra_sinks=[Memory()], progress=False)
        print(json.dumps(Memory.megabytes))
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(source), str(model_path)]
    command += [str(tmp_path / "out.mkv"), str(tmp_path / "out.jsonl")]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    megabytes = json.loads(result.stdout)
    assert len(megabytes) == 60
    assert max(megabytes[40:]) - max(megabytes[10:20]) < 2  # a leak of one frame in ten would be 3.5 MB
