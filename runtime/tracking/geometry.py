"""Points and segments in the picture.

Where tracks are compared with zones and lines, the longer side of the picture is `REFERENCE`, so that a stream may
change its resolution.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

REFERENCE = 1000.0

Point = tuple[float, float]
Points = tuple[Point, ...]


def in_pixels(points: Points, size_hw: tuple[int, int]) -> NDArray[np.float64]:
    """float64 [n, 2], x y: points that are fractions where no value is above 1, else pixels already."""
    array = np.array(points, np.float64)
    return array * size_hw[::-1] if array.max() <= 1 else array


def meet(first: Points, second: Points) -> bool:
    """Whether two segments, given by their ends, have a point in common."""
    (a, b), (c, d) = first, second
    apart = any(max(a[i], b[i]) < min(c[i], d[i]) or max(c[i], d[i]) < min(a[i], b[i]) for i in (0, 1))
    return not apart and turn(a, b, c) * turn(a, b, d) <= 0 and turn(c, d, a) * turn(c, d, b) <= 0


def turn(a: Point, b: Point, c: Point) -> float:
    """Twice the area of a triangle; positive where c is to the right of who goes from a to b, as y points down."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
