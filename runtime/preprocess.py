"""The one definition of what happens to a frame before the network sees it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def preprocess(
    frame_bgr: NDArray[np.uint8], size_hw: tuple[int, int], *, out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Stretch a frame to the model's size and turn BGR into RGB.

    Bilinear with half-pixel centres and no antialias, as torchvision's SSD resizes
    (`torch.nn.functional.interpolate(..., mode="bilinear", align_corners=False)`), rounded to uint8.

    Args:
        frame_bgr: uint8 [H, W, 3].
        size_hw: (height, width) in pixels that the model takes.
        out: uint8 [height, width, 3], contiguous, to be written to; made when None.

    Returns:
        uint8 [height, width, 3], RGB; `out` if it was given.
    """
    height, width = size_hw
    resized = cv2.resize(frame_bgr, (width, height), interpolation=cv2.INTER_LINEAR)
    if out is None:
        out = np.empty((height, width, 3), np.uint8)
    cv2.cvtColor(resized, cv2.COLOR_BGR2RGB, dst=out)  # after the resize: it is the smaller image
    return out
