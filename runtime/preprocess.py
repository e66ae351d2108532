"""The one definition of what happens to a frame before the network sees it."""

from __future__ import annotations

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

    Of a frame in YUV each plane is stretched so, and the few pixels that are left are turned into RGB. From BGR made of
    the same planes the result differs at edges of colours alone, whose chroma is interpolated here and repeated there.

    Args:
        frame: uint8 [H, W, 3] BGR, or YUV planes.
        size_hw: (height, width) in pixels that the model takes.
        out: uint8 [height, width, 3], contiguous, to be written to; made when None.

    Returns:
        uint8 [height, width, 3], RGB; `out` if it was given.
    """
    height, width = size_hw
    if out is None:
        out = np.empty((height, width, 3), np.uint8)
    if isinstance(frame, YuvPlanes):
        planes = [_stretch(plane, size_hw) for plane in (frame.luma, *frame.chroma)]
        cv2.transform(cv2.merge(planes), frame.colours.to_rgb, dst=out)
    else:
        cv2.cvtColor(_stretch(frame, size_hw), cv2.COLOR_BGR2RGB, dst=out)  # after the resize: it is the smaller image
    return out


def _stretch(image: NDArray[np.uint8], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(image, size_hw[::-1], interpolation=cv2.INTER_LINEAR), np.uint8)
