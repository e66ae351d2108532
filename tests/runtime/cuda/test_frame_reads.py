"""The preprocess kernels read frames as words of 8 bytes, wherever they lie, and no byte outside of their rows."""

from __future__ import annotations

import ctypes
import mmap
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from ssd_edge.runtime.cuda.errors import CudaError
from ssd_edge.runtime.cuda.kernels import KERNEL_SOURCE, KERNELS
from ssd_edge.runtime.cuda.preprocess import Plane as YuvPlane
from ssd_edge.runtime.cuda.preprocess import preprocess_bgr, preprocess_yuv
from tests.fakes.host_cuda import HostCuda

IS_INSIDE = "if (skipped <= offset && offset - skipped + (two ? 16 : 8) <= size)"
BY_BYTES = KERNEL_SOURCE.replace(IS_INSIDE, "if (false)")  # what the words have to equal
MODEL_SIZES_HW = [(1, 1), (3, 7), (9, 40), (60, 33)]
BGR_SIZES_HW = [(1, 1), (1, 2), (2, 1), (3, 3), (4, 5), (5, 17), (7, 64), (2, 301)]
NV12_SIZES_HW = [(2, 2), (2, 4), (4, 6), (6, 18), (4, 64), (2, 300)]

Plane = tuple[int, int, int, int]  # address, bytes from row to row, bytes of a row, rows


def bgr_planes(frame_hw: tuple[int, int]) -> list[tuple[int, int]]:
    """(bytes of a row, rows) of each plane."""
    return [(3 * frame_hw[1], frame_hw[0])]


def nv12_planes(frame_hw: tuple[int, int]) -> list[tuple[int, int]]:
    return [(frame_hw[1], frame_hw[0]), (frame_hw[1], frame_hw[0] // 2)]


def read_frame(
    cuda: HostCuda, planes: Sequence[Plane], frame_hw: tuple[int, int], size_hw: tuple[int, int], source: str
) -> np.ndarray:
    """uint8 [height, width, 3] of a frame that lies at addresses."""
    kernels = cuda.module(source, KERNELS)
    result = np.empty((*size_hw, 3), np.uint8)
    out = result.ctypes.data
    with cuda.stream() as stream:
        if len(planes) == 1:
            preprocess_bgr(stream, kernels, *planes[0][:2], frame_hw, out, size_hw)
        else:
            luma, chroma = (YuvPlane(*plane[:2], plane[3], plane[2]) for plane in planes)
            preprocess_yuv(stream, kernels, luma, chroma._replace(width=chroma.width // 2), out, size_hw)
    return result


def rows_of(planes: Sequence[Plane]) -> Iterator[tuple[int, int]]:
    """(first, end) address of each row."""
    for address, pitch, row_bytes, rows in planes:
        for row in range(rows):
            yield address + row * pitch, address + row * pitch + row_bytes


def placed(shapes: Sequence[tuple[int, int]], offset: int, gap: int) -> tuple[list[Plane], list[np.ndarray]]:
    """Planes in random bytes, `offset` bytes from an address that is a multiple of 8; and what holds the memory."""
    rng = np.random.default_rng(0)
    memory = [rng.integers(0, 256, 64 + (row + gap) * rows, np.uint8) for row, rows in shapes]
    starts = [-(-array.ctypes.data // 8) * 8 + offset for array in memory]
    planes = [(start, row + gap, row, rows) for start, (row, rows) in zip(starts, shapes, strict=True)]
    return planes, memory


ODD_PLANES = [(5, 3), (6, 2)]  # 5×3 pixels and 3×2 chroma
FRAMES = [(bgr_planes(hw), hw) for hw in BGR_SIZES_HW] + [(nv12_planes(hw), hw) for hw in NV12_SIZES_HW]
FRAMES.append((ODD_PLANES, (3, 5)))
IDS = [f"{'bgr' if len(planes) == 1 else 'nv12'}-{hw[1]}x{hw[0]}" for planes, hw in FRAMES]


@pytest.mark.parametrize(("shapes", "frame_hw"), FRAMES, ids=IDS)
def test_words_give_what_bytes_give(shapes: list[tuple[int, int]], frame_hw: tuple[int, int]) -> None:
    assert BY_BYTES != KERNEL_SOURCE
    for offset in range(8):
        for gap in (0, 1, 6):  # rows at other places within words; a part of a larger frame
            planes, _memory = placed(shapes, offset, gap)
            words, single = HostCuda(), HostCuda()
            words.readable = list(rows_of(planes))
            for size_hw in MODEL_SIZES_HW:
                found = read_frame(words, planes, frame_hw, size_hw, KERNEL_SOURCE)
                assert np.array_equal(found, read_frame(single, planes, frame_hw, size_hw, BY_BYTES))


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ("if (offset - skipped + (two ? 16 : 8) <= size)", "in front of a row"),
        ("if (skipped <= offset && offset - skipped + 8 <= size)", "behind a row, in the second word"),
        ("if (skipped <= offset)", "behind a row"),
    ],
)
def test_a_byte_too_many_would_be_seen(wrong: str, where: str) -> None:
    def reads_too_much(shapes: list[tuple[int, int]], frame_hw: tuple[int, int], offset: int) -> bool:
        planes, _memory = placed(shapes, offset, 1)
        cuda = HostCuda()
        cuda.readable = list(rows_of(planes))
        try:
            read_frame(cuda, planes, frame_hw, (9, 40), KERNEL_SOURCE.replace(IS_INSIDE, wrong))
        except CudaError as error:
            return "from outside the readable memory" in str(error)
        return False

    assert any(reads_too_much(*frame, offset) for frame in FRAMES for offset in range(8)), where


TOO_FAR = KERNEL_SOURCE.replace("two ? __ldg(word + 1) : 0", "__ldg(word + 1)").replace(IS_INSIDE, "if (true)")


@pytest.mark.parametrize(("source", "status"), [("right", 0), ("too far", -signal.SIGSEGV)])
def test_frames_at_the_end_of_memory(source: str, status: int) -> None:
    """In a separate process: a read behind the end kills it."""
    HostCuda().module(KERNEL_SOURCE, KERNELS)  # skips where nothing can be compiled
    command = [sys.executable, "-m", main.__module__, source]
    root = Path(__file__).parents[3]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=100, check=False)
    assert run.returncode == status, run.stderr


def main(name: str) -> None:
    source = {"right": KERNEL_SOURCE, "too far": TOO_FAR}[name]
    for shapes, frame_hw in FRAMES:
        for gap in (0, 1, 6):
            at_ends = partial(read_frame, HostCuda(), frame_hw=frame_hw, size_hw=(9, 40))
            memory = [before_a_wall(row * rows + gap * (rows - 1)) for row, rows in shapes]
            ends = [(address, row + gap, row, rows) for address, (row, rows) in zip(memory, shapes, strict=True)]
            assert np.array_equal(at_ends(ends, source=source), at_ends(ends, source=BY_BYTES))


def before_a_wall(size: int) -> int:
    """The address of so many bytes, behind which no memory can be read. It is never freed."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype, libc.mmap.argtypes = ctypes.c_void_p, [ctypes.c_void_p, *[ctypes.c_size_t] * 5]
    libc.mprotect.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
    pages = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    no_file = 2 ** (8 * ctypes.sizeof(ctypes.c_size_t)) - 1
    start = libc.mmap(None, pages + mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE, flags, no_file, 0)
    if libc.mprotect(start + pages, mmap.PAGESIZE, 0):
        raise OSError(ctypes.get_errno(), "mprotect")
    random = np.random.default_rng(1).integers(0, 256, size, np.uint8)
    ctypes.memmove(start + pages - size, random.ctypes.data, size)
    return int(start) + pages - size


if __name__ == "__main__":
    main(sys.argv[1])
