"""Zones and lines in the picture, as a configuration gives them."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

from ssd_edge.errors import UsageError
from ssd_edge.option_checks import is_filled_text, nearest
from ssd_edge.runtime.tracking.geometry import Points, meet

ANCHORS = ("bottom", "centre")


@dataclass(frozen=True)
class Zone:
    """A part of the picture that tracks enter and leave.

    Attributes:
        name: what it is called in events and counts.
        polygon: three corners or more, x y each, in order around it; as fractions of the picture where no value is
            above 1, else in pixels.
        anchor: the point of a box that decides: `bottom`, the middle of its lower edge, where things stand that a
            camera sees from the side; `centre` for a camera that looks straight down.

    Raises:
        UsageError: it is no such thing.
    """

    name: str
    polygon: Points
    anchor: str = "bottom"

    def __post_init__(self) -> None:
        what = f"zone {self.name!r}"
        object.__setattr__(self, "polygon", _checked_points(self.polygon, f"{what}: polygon"))
        _check_name_and_anchor(self, what)
        if len(self.polygon) < 3:
            raise UsageError(f"{what}: a polygon has 3 points or more, got {len(self.polygon)}")
        edges = [*itertools.pairwise((*self.polygon, self.polygon[0]))]
        for (i, first), (j, second) in itertools.combinations(enumerate(edges), 2):
            if 1 < j - i < len(edges) - 1 and meet(first, second):  # neighbours meet at their corner
                raise UsageError(
                    f"{what}: its edges {_text(first)} and {_text(second)} cross; give the points in order"
                )
        if not abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in edges)) > 0:
            raise UsageError(f"{what}: all of its points lie on one line; give the corners of an area")


@dataclass(frozen=True)
class Line:
    """A line in the picture that tracks cross.

    Attributes:
        name: what it is called in events and counts.
        points: its two ends, as the corners of a zone. Who walks from the first to the second has `in` to the right:
            a track that comes out there went in.
        anchor: as of a zone.

    Raises:
        UsageError: it is no such thing.
    """

    name: str
    points: Points
    anchor: str = "bottom"

    def __post_init__(self) -> None:
        what = f"line {self.name!r}"
        object.__setattr__(self, "points", _checked_points(self.points, f"{what}: points"))
        _check_name_and_anchor(self, what)
        if len(self.points) != 2 or self.points[0] == self.points[1]:
            raise UsageError(f"{what}: a line has 2 different points, got {_text(self.points)}")


def _checked_points(value: Any, what: str) -> Points:
    try:
        points = tuple((float(x), float(y)) for x, y in value)
    except (TypeError, ValueError):
        raise UsageError(f"{what}: expected points such as [[0.1, 0.2], [0.9, 0.2]], got {value!r}") from None
    numbers = [number for point in points for number in point]
    if bad := [number for number in numbers if not 0 <= number < math.inf]:
        raise UsageError(f"{what}: expected numbers from 0 up, got {bad[0]:g}")
    if numbers and max(numbers) > 1 and (fractions := [number for number in numbers if 0 < number < 1]):
        raise UsageError(
            f"{what}: {fractions[0]:g} looks like a fraction of the picture and {max(numbers):g} like pixels; "
            "give all as fractions (0 to 1) or all in pixels"
        )
    return points


def _check_name_and_anchor(place: Zone | Line, what: str) -> None:
    if not is_filled_text(place.name):
        raise UsageError(f"{what}: expected a name in words")
    if place.anchor not in ANCHORS:
        raise UsageError(f"{what}: unknown anchor {place.anchor!r}; {nearest(str(place.anchor), ANCHORS)}")


def _text(points: Points) -> str:
    return "–".join(f"[{x:g}, {y:g}]" for x, y in points)
