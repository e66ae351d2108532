"""Frames in a slot's memory."""

from __future__ import annotations

import ctypes

import pytest

from ssd_edge.runtime.backends.gpu_slot import ALIGNMENT, Slot
from ssd_edge.runtime.cuda.errors import CudaMemoryError
from tests.fakes.host_cuda import HostCuda
from tests.runtime.backends.gpu_runs import random_frames

RESULTS_BYTES = 100


@pytest.mark.parametrize("mapped", [False, True])
def test_frames_are_where_the_gpu_will_find_them(mapped: bool) -> None:
    cuda = HostCuda()
    frames = random_frames((4, 5), (3, 7))
    with Slot(cuda, RESULTS_BYTES, mapped) as slot, cuda.stream() as stream:
        placed = slot.place(frames)
        assert slot.sizes_hw == [(4, 5), (3, 7)]
        assert placed.upload_bytes == (0 if mapped else 2 * ALIGNMENT)
        if not mapped:
            slot.upload(stream, placed.upload_bytes)
        for frame, there in zip(frames, placed.frames, strict=True):
            assert there.address % ALIGNMENT == 0
            assert ctypes.string_at(there.address, frame.nbytes) == frame.tobytes()
    assert cuda.allocated == 0


def test_too_little_memory_for_frames_is_asked_for_again() -> None:
    cuda = HostCuda()
    (small,), (large,) = random_frames((4, 5)), random_frames((400, 500))
    with Slot(cuda, RESULTS_BYTES, mapped=False) as slot:
        slot.place([small])
        cuda.total_memory = 10_000
        with pytest.raises(CudaMemoryError):
            slot.place([large])
        assert cuda.allocated == RESULTS_BYTES
        (placed,) = slot.place([small]).frames
        assert (placed.height, placed.width) == (4, 5)
    assert cuda.allocated == 0
