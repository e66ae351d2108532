"""From the detections of one source's frames to what happens there: filters, tracks, zones and lines."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, TypeVar

import numpy as np

from ssd_edge.detections import Detections
from ssd_edge.errors import UsageError
from ssd_edge.option_checks import check_table, is_number, nearest
from ssd_edge.runtime.results import NO_TRACK, Result
from ssd_edge.runtime.sources.base import Frame
from ssd_edge.runtime.tracking.geometry import REFERENCE, in_pixels
from ssd_edge.runtime.tracking.tracker import Tracker, TrackOptions
from ssd_edge.runtime.tracking.watch import PlaceWatch, Seen
from ssd_edge.runtime.tracking.zones import Line, Zone

KEYS = ("classes", "min_size", "max_size", "track", "zone", "line")  # of a source's table, those that are read here
Size = tuple[float, float]
T = TypeVar("T")


@dataclass(frozen=True)
class UnderstandingOptions:
    """What is kept and watched of one source.

    Attributes:
        classes: names of the classes to keep; empty for all.
        min_size: width and height that a box must have to be kept: as fractions of the picture's where neither is
            above 1, else in pixels. One number means both.
        max_size: that it must not exceed.
        track: give ids; zones and lines do so in any case.
        zones: parts of the picture.
        lines: lines in it.

    Raises:
        UsageError: a value is out of range.
    """

    classes: tuple[str, ...] = ()
    min_size: Size = (0.0, 0.0)
    max_size: Size = (math.inf, math.inf)
    track: TrackOptions | None = None
    zones: tuple[Zone, ...] = ()
    lines: tuple[Line, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", _names(self.classes))
        object.__setattr__(self, "min_size", _size(self.min_size, "min_size"))
        object.__setattr__(self, "max_size", _size(self.max_size, "max_size"))
        if self.track is None and (self.zones or self.lines):
            object.__setattr__(self, "track", TrackOptions())


def understanding_options(table: Mapping[str, Any], where: str) -> UnderstandingOptions:
    """The options of a source's table in a configuration file; `docs/tracking.md` shows one.

    Args:
        table: those of `KEYS` that are there.
        where: what the table is called in messages.

    Raises:
        UsageError: a key or value is not as expected.
    """
    values = dict(check_table(table, KEYS, f"{where}: "))
    zones = _from_tables(Zone, values.pop("zone", []), f"{where}: zone")
    lines = _from_tables(Line, values.pop("line", []), f"{where}: line")
    if isinstance(track := values.pop("track", False), bool):
        track = {} if track else None
    if track is not None:
        values["track"] = _from_table(TrackOptions, track, f"{where}: track")
    try:
        return UnderstandingOptions(**values, zones=zones, lines=lines)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


class Understanding:
    """Follows what is seen in the frames of one source. Time is the frames' own, `Frame.time_s`.

    Args:
        class_names: what labels mean.
        options: what to keep and watch.

    Raises:
        UsageError: the model has no such class, or two zones or lines have one name.
        MissingDependencyError: tracks are wanted, and the package `trackers` is not there.
    """

    def __init__(self, class_names: tuple[str, ...], options: UnderstandingOptions | None = None) -> None:
        self.options = options or UnderstandingOptions()
        for name in self.options.classes:
            if name not in class_names:
                raise UsageError(f"the model has no class {name!r}; {nearest(name, class_names)}")
        self._class_names = class_names
        self._labels = [class_names.index(name) for name in self.options.classes]
        self._watch = PlaceWatch(self.options.zones, self.options.lines)
        self._tracker = Tracker(self.options.track) if self.options.track else None

    def apply(self, source: str, frame: Frame, detections: Detections, age_ms: float) -> Result:
        """The frame with the detections that are kept, their tracks, and what these did.

        Args:
            source: its name in outputs.
            frame: of the one source that this object is for; frames come in order.
            detections: in pixels of the frame.
            age_ms: from capture to detections.
        """
        size_hw = frame.size_hw
        kept = self._kept(detections, size_hw)
        if self._tracker is None:
            return Result(source, frame, kept, self._class_names, age_ms)
        boxes = kept.boxes_xyxy * (REFERENCE / max(size_hw))
        tracks = self._tracker.update(Detections(boxes, kept.scores, kept.labels), frame.time_s)
        seen = {
            int(track): Seen(int(label), box)
            for track, label, box in zip(tracks, kept.labels, boxes, strict=True)
            if track != NO_TRACK
        }
        events = self._watch.update(seen, self._tracker.alive, size_hw)
        return Result(source, frame, kept, self._class_names, age_ms, tracks, events, self._watch.counts)

    def _kept(self, detections: Detections, size_hw: tuple[int, int]) -> Detections:
        sizes = detections.boxes_xyxy[:, 2:] - detections.boxes_xyxy[:, :2]  # [n, 2], width and height
        smallest, largest = (in_pixels((size,), size_hw) for size in (self.options.min_size, self.options.max_size))
        keep = ((sizes >= smallest) & (sizes <= largest)).all(axis=1)
        if self._labels:
            keep &= np.isin(detections.labels, self._labels)
        return Detections(detections.boxes_xyxy[keep], detections.scores[keep], detections.labels[keep])


def _from_tables(kind: type[T], tables: Any, where: str) -> tuple[T, ...]:
    if not isinstance(tables, (list, tuple)):
        raise UsageError(f"{where}: expected tables in double brackets, [[…]], got {tables!r}")
    return tuple(_from_table(kind, table, f"{where} {number}") for number, table in enumerate(tables, 1))


def _from_table(kind: type[T], table: Any, where: str) -> T:
    """The dataclass of that kind with the table's values."""
    known = fields(kind)  # type: ignore[arg-type]
    check_table(table, [field.name for field in known], f"{where}: ")
    if lacking := [field.name for field in known if field.default is MISSING and field.name not in table]:
        raise UsageError(f"{where}: it lacks {', '.join(lacking)}")
    try:
        return kind(**table)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
        raise UsageError(f'classes: expected names such as ["person", "car"], got {value!r}')
    return tuple(value)


def _size(value: Any, name: str) -> Size:
    pair = (value, value) if is_number(value) else value
    if not (isinstance(pair, (list, tuple)) and len(pair) == 2 and all(is_number(side) and side >= 0 for side in pair)):
        raise UsageError(f"{name}: expected one number or [width, height], from 0 up, got {value!r}")
    return float(pair[0]), float(pair[1])
