"""What tracks do in zones and at lines: enter and leave, in and out."""

from __future__ import annotations

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
from ssd_edge.runtime.results import Event
from ssd_edge.runtime.tracking.geometry import REFERENCE, Point, Points, in_pixels, meet, turn
from ssd_edge.runtime.tracking.zones import Line, Zone

logger = logging.getLogger(__name__)

# Share of a box's size (the root of its area) by which it must be across an edge before that counts: detectors' boxes
# tremble by a few per cent.
HYSTERESIS = 0.1


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
            distance = turn(start, end, point) / math.dist(start, end)  # > 0 to the right, as y points down
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
