"""The preprocess kernels, compiled for the host, against `runtime.preprocess`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import pytest

from ssd_edge.images import ImageError
from ssd_edge.runtime.colours import BT601, BT601_FULL, BT709, BT709_FULL, BT2020, BT2020_FULL, YuvColours
from ssd_edge.runtime.cuda.kernels import KERNEL_SOURCE, KERNELS
from ssd_edge.runtime.cuda.preprocess import Plane, preprocess_bgr, preprocess_yuv
from ssd_edge.runtime.pixels import YuvPlanes
from ssd_edge.runtime.preprocess import preprocess
from tests.fakes.host_cuda import HostCuda


def run_preprocess(
    launch: Callable[..., None], cuda: HostCuda, planes: list[np.ndarray], size_hw: tuple[int, int], *, gap: int = 0
) -> np.ndarray:
    """uint8 [height, width, 3] of planes that are put into memory with a gap between rows."""
    kernels = cuda.module(KERNEL_SOURCE, KERNELS)
    with ExitStack() as stack:
        stream = stack.enter_context(cuda.stream())
        places = []
        for plane in planes:
            row = plane[0].nbytes
            memory = stack.enter_context(cuda.memory(len(plane) * (row + gap)))
            stream.copy_rows(memory.address, row + gap, plane.ctypes.data, plane.strides[0], row, len(plane))
            places.append(Plane(memory.address, row + gap, *plane.shape[:2]))
        result = np.empty((*size_hw, 3), np.uint8)
        out = stack.enter_context(cuda.memory(result.nbytes))
        if len(places) == 1:
            launch(stream, kernels, *places[0][:2], places[0][2:], out.address, size_hw)
        else:
            launch(stream, kernels, *places, out.address, size_hw)
        stream.copy(result.ctypes.data, out.address, result.nbytes)
    return result


@pytest.mark.parametrize("gap", [0, 5])
@pytest.mark.parametrize("size_hw", [(1, 1), (7, 5), (60, 60), (64, 100)])
@pytest.mark.parametrize("frame_hw", [(1, 1), (2, 3), (1, 90), (37, 53), (120, 120), (135, 240), (14, 10)])
def test_preprocess(cuda: HostCuda, frame_hw: tuple[int, int], size_hw: tuple[int, int], gap: int) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (*frame_hw, 3), dtype=np.uint8)
    found = run_preprocess(preprocess_bgr, cuda, [frame], size_hw, gap=gap)
    assert np.abs(found.astype(int) - preprocess(frame, size_hw)).max() <= 1


def test_preprocess_of_a_full_frame() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), dtype=np.uint8)
    found = run_preprocess(preprocess_bgr, HostCuda(), [frame], (300, 300))
    assert np.abs(found.astype(int) - preprocess(frame, (300, 300))).max() <= 1


def test_preprocess_by_hand(cuda: HostCuda) -> None:
    row = np.array([[[0, 200, 1], [100, 0, 1]]], np.uint8)  # [1, 2, 3] BGR; see test_preprocess.py
    found = run_preprocess(preprocess_bgr, cuda, [row], (1, 4))
    assert found.tolist() == [[[1, 200, 0], [1, 150, 25], [1, 50, 75], [1, 0, 100]]]


def levels_apart(found: np.ndarray, planes: YuvPlanes) -> int:
    """Of `preprocess`, at most."""
    return int(np.abs(found.astype(int) - preprocess(planes, found.shape[:2])).max())


@pytest.mark.parametrize("size_hw", [(1, 1), (7, 5), (33, 21), (64, 100)])
@pytest.mark.parametrize("frame_hw", [(1, 1), (2, 2), (4, 6), (37, 53), (66, 42), (108, 192)])
@pytest.mark.parametrize("shrink", [(2, 2), (1, 2), (1, 1)])  # NV12, NV16, NV24; odd sides are rounded up
def test_preprocess_yuv(
    cuda: HostCuda, frame_hw: tuple[int, int], size_hw: tuple[int, int], shrink: tuple[int, int]
) -> None:
    rng = np.random.default_rng(1)
    luma = rng.integers(0, 256, frame_hw, np.uint8)
    chroma = rng.integers(0, 256, (*(-(-side // by) for side, by in zip(frame_hw, shrink, strict=True)), 2), np.uint8)
    found = run_preprocess(preprocess_yuv, cuda, [luma, chroma], size_hw, gap=3)
    # Other than in 4:2:0, OpenCV converts with 10 bits behind the point: one level more.
    planes = YuvPlanes(luma, (chroma,))
    assert levels_apart(found, planes) <= (1 if planes.is_420 else 2)


@pytest.mark.parametrize("size_hw", [(40, 50), (300, 300), (17, 23)])  # as large as the frame; up, and down
@pytest.mark.parametrize("colours", [BT601, BT601_FULL, BT709, BT709_FULL, BT2020, BT2020_FULL])
def test_colours(colours: YuvColours, size_hw: tuple[int, int]) -> None:
    """All of luma and chroma, also what video does not use."""
    rng = np.random.default_rng(2)
    luma, chroma = rng.integers(0, 256, (40, 50), np.uint8), rng.integers(0, 256, (20, 25, 2), np.uint8)
    found = run_preprocess(partial(preprocess_yuv, colours=colours), HostCuda(), [luma, chroma], size_hw)
    assert levels_apart(found, YuvPlanes(luma, (chroma,), colours)) <= (1 if colours == BT601 else 2)


def test_pixels_that_share_a_chroma_have_the_same() -> None:
    """Grey, with one v on the left and another on the right."""
    luma = np.full((2, 4), 100, np.uint8)
    chroma = np.array([[[128, 28], [128, 228]]], np.uint8)  # v of 28 and 228, so -100 and 100
    found = run_preprocess(partial(preprocess_yuv, colours=BT601_FULL), HostCuda(), [luma, chroma], (2, 4))
    assert found[0, :, 0].tolist() == [0, 0, 240, 240]  # luma + 1.402 v
    assert found[0, :, 2].tolist() == [100] * 4


@pytest.mark.parametrize(
    ("launch", "geometry", "message"),
    [
        (preprocess_bgr, (0, 30, (0, 10)), "at least one pixel"),
        (preprocess_bgr, (0, 29, (5, 10)), "29 bytes apart; expected at least 30"),
        (preprocess_yuv, (Plane(0, 9, 6, 10), Plane(0, 10, 3, 5)), "luma with rows 9 bytes apart"),
        (preprocess_yuv, (Plane(0, 10, 6, 10), Plane(0, 9, 3, 5)), "chroma with rows 9 bytes apart"),
        (preprocess_yuv, (Plane(0, 10, 6, 10), Plane(0, 9, 3, 0)), "at least one pixel"),
    ],
)
def test_a_frame_that_cannot_be(launch: Callable[..., None], geometry: tuple[Any, ...], message: str) -> None:
    cuda = HostCuda()
    with cuda.stream() as stream, pytest.raises(ImageError, match=message):
        launch(stream, {}, *geometry, 0, (3, 3))
