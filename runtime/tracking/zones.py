"""Zones and lines in the picture, and what tracks do there: enter and leave, in and out.

Geometry is done with the longer side of the picture as `REFERENCE`, so that a stream may change its resolution.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ssd_edge.errors import UsageError
from ssd_edge.runtime.option_checks import is_text, nearest
from ssd_edge.runtime.results import Event

logger = logging.getLogger(__name__)

REFERENCE = 1000.0
# Share of a box's size (the root of its area) by which it must be across an edge before that counts: detectors' boxes
# tremble by a few per cent.
HYSTERESIS = 0.1
ANCHORS = ("bottom", "centre")

Point = tuple[float, float]
Points = tuple[Point, ...]


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


@dataclass(frozen=True)
class Seen:
    """A track in a frame: its class, and its box in units of `REFERENCE`."""

    label: int
    box_xyxy: NDArray[np.floating[Any]]

    def anchor(self, kind: str) -> Point:
        """The point of the box that decides where the track is."""
        x0, y0, x1, y1 = self.box_xyxy.tolist()
        return (x0 + x1) / 2, y1 if kind == "bottom" else (y0 + y1) / 2

    @property
    def margin(self) -> float:
        """How far across an edge the anchor must be."""
        x0, y0, x1, y1 = self.box_xyxy.tolist()
        return HYSTERESIS * math.sqrt(max((x1 - x0) * (y1 - y0), 0.0))


class PlaceWatch:
    """What the tracks of one source do in its zones and at its lines.

    Args:
        zones, lines: their names differ.

    Raises:
        UsageError: a name is there twice.
    """

    def __init__(self, zones: Sequence[Zone], lines: Sequence[Line]) -> None:
        names = [*(zone.name for zone in zones), *(line.name for line in lines)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UsageError(f"more than one zone or line is called {twice[0]!r}; give each a name of its own")
        self._watches: list[_ZoneWatch | _LineWatch] = [*map(_ZoneWatch, zones), *map(_LineWatch, lines)]
        self._size_hw = (0, 0)

    def update(self, seen: Mapping[int, Seen], alive: AbstractSet[int], size_hw: tuple[int, int]) -> tuple[Event, ...]:
        """The events of a frame.

        Args:
            seen: the tracks that a detection was found for, by id.
            alive: ids of all tracks that are not over, also of those that were not found in this frame.
            size_hw: of the frame, in pixels.
        """
        if size_hw != self._size_hw:
            self._size_hw = size_hw
            for watch in self._watches:
                watch.resize(size_hw)
        return tuple(event for watch in self._watches for event in watch.update(seen, alive))

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """`{zone: {"inside": tracks in it now}, line: {"in": crossings so far, "out": …}}`."""
        return {watch.place.name: watch.counts() for watch in self._watches}


class _ZoneWatch:
    """A zone and the tracks in it."""

    def __init__(self, zone: Zone) -> None:
        self.place = zone
        self._polygon = np.zeros((0, 2), np.float32)
        self._inside: dict[int, int] = {}  # track: its class

    def resize(self, size_hw: tuple[int, int]) -> None:
        self._polygon = _geometry(self.place.polygon, size_hw, f"zone {self.place.name!r}").astype(np.float32)

    def update(self, seen: Mapping[int, Seen], alive: AbstractSet[int]) -> Iterator[Event]:
        for track in [track for track in self._inside if track not in alive]:
            yield self._event("leave", track, self._inside.pop(track))
        for track, found in seen.items():
            depth = cv2.pointPolygonTest(self._polygon, found.anchor(self.place.anchor), True)  # > 0 inside
            if track not in self._inside and depth > -0.1:  # as floats round: the picture's border is in the picture
                self._inside[track] = found.label
                yield self._event("enter", track, found.label)
            elif track in self._inside and depth < -found.margin:
                yield self._event("leave", track, self._inside.pop(track))

    def counts(self) -> dict[str, int]:
        return {"inside": len(self._inside)}

    def _event(self, kind: str, track: int, label: int) -> Event:
        return Event(kind, self.place.name, track, label)


class _LineWatch:
    """A line, and the side of it that each track was last on."""

    def __init__(self, line: Line) -> None:
        self.place = line
        self._start = self._end = (0.0, 0.0)
        self._last: dict[int, tuple[bool, Point]] = {}  # track: (it is on the side `in`, the last place it was there)
        self._counts = {"in": 0, "out": 0}

    def resize(self, size_hw: tuple[int, int]) -> None:
        ends = _geometry(self.place.points, size_hw, f"line {self.place.name!r}")
        self._start, self._end = ((float(x), float(y)) for x, y in ends)

    def update(self, seen: Mapping[int, Seen], alive: AbstractSet[int]) -> Iterator[Event]:
        self._last = {track: last for track, last in self._last.items() if track in alive}
        start, end = self._start, self._end
        for track, found in seen.items():
            point = found.anchor(self.place.anchor)
            distance = _turn(start, end, point) / math.dist(start, end)  # > 0 to the right, as y points down
            side = distance > 0
            last_side, last_point = self._last.get(track, (side, point))
            if side != last_side and abs(distance) <= found.margin:
                continue  # not across for sure: its last place stays the one before the line
            self._last[track] = side, point
            if side != last_side and meet((last_point, point), (start, end)):  # else it went around an end
                kind = "in" if side else "out"
                self._counts[kind] += 1
                yield Event(kind, self.place.name, track, found.label)

    def counts(self) -> dict[str, int]:
        return dict(self._counts)


def in_pixels(points: Points, size_hw: tuple[int, int]) -> NDArray[np.float64]:
    """float64 [n, 2], x y: points that are fractions where no value is above 1, else pixels already."""
    array = np.array(points, np.float64)
    return array * size_hw[::-1] if array.max() <= 1 else array


def meet(first: Points, second: Points) -> bool:
    """Whether two segments, given by their ends, have a point in common."""
    (a, b), (c, d) = first, second
    apart = any(max(a[i], b[i]) < min(c[i], d[i]) or max(c[i], d[i]) < min(a[i], b[i]) for i in (0, 1))
    return not apart and _turn(a, b, c) * _turn(a, b, d) <= 0 and _turn(c, d, a) * _turn(c, d, b) <= 0


def _turn(a: Point, b: Point, c: Point) -> float:
    """Twice the area of a triangle; positive where c is to the right of who goes from a to b, as y points down."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _geometry(points: Points, size_hw: tuple[int, int], what: str) -> NDArray[np.float64]:
    """float64 [n, 2] in units of `REFERENCE`."""
    pixels = in_pixels(points, size_hw)
    if (pixels.min(axis=0) >= size_hw[::-1]).any():
        logger.warning(
            "%s lies outside of the picture of %d×%d pixels; give fractions of the picture, which fit every size",
            what,
            size_hw[1],
            size_hw[0],
        )
    return pixels * (REFERENCE / max(size_hw))


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
    if not is_text(place.name):
        raise UsageError(f"{what}: expected a name in words")
    if place.anchor not in ANCHORS:
        raise UsageError(f"{what}: unknown anchor {place.anchor!r}; {nearest(str(place.anchor), ANCHORS)}")


def _text(points: Points) -> str:
    return "–".join(f"[{x:g}, {y:g}]" for x, y in points)
