"""Boxes of codes, for tests."""

import numpy as np
import zxingcpp
from numpy.typing import NDArray


def iou(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Of two boxes x0 y0 x1 y1."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)]
    return float(width * height / (sum(areas) - width * height))


def decoded_box(barcode: zxingcpp.Barcode) -> NDArray[np.float64]:
    """x0 y0 x1 y1 of what the decoder has found."""
    position = barcode.position
    corners = (position.top_left, position.top_right, position.bottom_right, position.bottom_left)
    points = np.array([[c.x, c.y] for c in corners], float)
    return np.concatenate([points.min(0), points.max(0)])
