"""The one definition of what happens to a frame before the network sees it."""

from __future__ import annotations

import threading

import cv2
import numpy as np
from numpy.typing import NDArray

from ssd_edge.runtime.pixels import YuvPlanes


def preprocess(
    frame: NDArray[np.uint8] | YuvPlanes, size_hw: tuple[int, int], *, out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Stretch a frame to the model's size and turn it into RGB.

    Bilinear with half-pixel centres and no antialias, as torchvision's SSD resizes
    (`torch.nn.functional.interpolate(..., mode="bilinear", align_corners=False)`), rounded to uint8.

    A frame in YUV becomes BGR first, so that it gives the same image to the bit. To stretch the planes and convert what
    is left would be faster on frames that are much larger than the input, and costs up to 0.14 points of mAP
    (docs/stream.md): its numbers are rounded at other places.

    Args:
        frame: uint8 [H, W, 3] BGR, or YUV planes.
        size_hw: (height, width) in pixels that the model takes.
        out: uint8 [height, width, 3], contiguous, to be written to; made when None.

    Returns:
        uint8 [height, width, 3], RGB; `out` if it was given.
    """
    height, width = size_hw
    if isinstance(frame, YuvPlanes):
        frame = frame.bgr(_scratch_of(frame.size_hw))
    resized = cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR)
    if out is None:
        out = np.empty((height, width, 3), np.uint8)
    cv2.cvtColor(resized, cv2.COLOR_BGR2RGB, dst=out)  # after the resize: it is the smaller image
    return out


_scratch = threading.local()


def _scratch_of(size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] of this thread: new memory for every frame would cost as much as its conversion."""
    buffer: NDArray[np.uint8] | None = getattr(_scratch, "bgr", None)
    if buffer is None or buffer.shape[:2] != size_hw:
        _scratch.bgr = buffer = np.empty((*size_hw, 3), np.uint8)
    return buffer
