"""The preprocess kernels, compiled for the host, against `runtime.preprocess`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import cv2
import numpy as np
import pytest

from ssd_edge.images import ImageError
from ssd_edge.runtime.colours import BT601_FULL, BT709, BT709_FULL, YuvColours
from ssd_edge.runtime.cuda.kernels import KERNEL_SOURCE, KERNELS
from ssd_edge.runtime.cuda.preprocess import preprocess_bgr, preprocess_nv12
from ssd_edge.runtime.preprocess import preprocess
from tests.fakes.host_cuda import HostCuda


def run_preprocess(
    launch: Callable[..., None], cuda: HostCuda, planes: list[np.ndarray], size_hw: tuple[int, int], *, gap: int = 0
) -> np.ndarray:
    """uint8 [height, width, 3] of planes that are put into memory with a gap between rows."""
    kernels = cuda.module(KERNEL_SOURCE, KERNELS)
    with ExitStack() as stack:
        stream = stack.enter_context(cuda.stream())
        arguments = []
        for plane in planes:
            row = plane[0].nbytes
            memory = stack.enter_context(cuda.memory(len(plane) * (row + gap)))
            stream.copy_rows(memory.address, row + gap, plane.ctypes.data, row, row, len(plane))
            arguments += [memory.address, row + gap]
        result = np.empty((*size_hw, 3), np.uint8)
        out = stack.enter_context(cuda.memory(result.nbytes))
        launch(stream, kernels, *arguments, planes[0].shape[:2], out.address, size_hw)
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


@pytest.mark.parametrize("size_hw", [(7, 5), (64, 100)])
@pytest.mark.parametrize("frame_hw", [(2, 2), (4, 6), (36, 54), (108, 192)])
def test_preprocess_nv12(cuda: HostCuda, frame_hw: tuple[int, int], size_hw: tuple[int, int]) -> None:
    height, width = frame_hw
    planes = np.random.default_rng(1).integers(0, 256, (height * 3 // 2, width), dtype=np.uint8)
    found = run_preprocess(preprocess_nv12, cuda, [planes[:height], planes[height:]], size_hw, gap=3)
    wanted = preprocess(cv2.cvtColor(planes, cv2.COLOR_YUV2BGR_NV12), size_hw)
    assert np.abs(found.astype(int) - wanted).max() <= 1


@pytest.mark.parametrize(
    ("colours", "black", "luma", "matrix"),
    # Rec. ITU-R BT.709-6 and BT.601-7 solved for red, green and blue: factors of (u − 128, v − 128).
    [
        (BT709, 16, 1.16438, [[0, 1.79274], [-0.21325, -0.53291], [2.11240, 0]]),
        (BT709_FULL, 0, 1.0, [[0, 1.5748], [-0.18732, -0.46812], [1.8556, 0]]),
        (BT601_FULL, 0, 1.0, [[0, 1.402], [-0.34414, -0.71414], [1.772, 0]]),
    ],
)
def test_other_colours(colours: YuvColours, black: int, luma: float, matrix: list[list[float]]) -> None:
    planes = np.random.default_rng(2).integers(0, 256, (60, 50), dtype=np.uint8)
    y, uv = planes[:40].astype(float), planes[40:].reshape(20, 25, 2).repeat(2, 0).repeat(2, 1) - 128.0
    wanted = np.clip(luma * np.maximum(y - black, 0)[..., None] + uv @ np.array(matrix).T, 0, 255)

    launch = partial(preprocess_nv12, colours=colours)
    found = run_preprocess(launch, HostCuda(), [planes[:40], planes[40:]], (40, 50))  # as large as the frame
    assert np.abs(found - wanted).max() <= 0.51  # rounding, and the five digits above


@pytest.mark.parametrize(
    ("launch", "geometry", "message"),
    [
        (preprocess_bgr, (0, 30, (0, 10)), "at least one pixel"),
        (preprocess_bgr, (0, 29, (5, 10)), "29 bytes apart; expected at least 30"),
        (preprocess_nv12, (0, 10, 0, 10, (5, 10)), "even"),
        (preprocess_nv12, (0, 10, 0, 9, (6, 10)), "chroma with rows 9 bytes apart"),
    ],
)
def test_a_frame_that_cannot_be(launch: Callable[..., None], geometry: tuple[Any, ...], message: str) -> None:
    cuda = HostCuda()
    with cuda.stream() as stream, pytest.raises(ImageError, match=message):
        launch(stream, {}, *geometry, 0, (3, 3))
