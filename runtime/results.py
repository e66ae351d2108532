"""What a stream finds in a frame, as every sink gets it and every output writes it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_edge.detections import Detections
from ssd_edge.runtime.sources.base import Frame

NO_TRACK = -1
UNIX_OFFSET_S = time.time() - time.monotonic()  # of this process: outputs never jump when the clock is set


@dataclass(frozen=True)
class Event:
    """Something that a track did.

    Attributes:
        kind: `enter` or `leave` of a zone, `in` or `out` over a line.
        place: name of the zone or line.
        track: the track's id.
        label: its class.
    """

    kind: str
    place: str
    track: int
    label: int


@dataclass(frozen=True)
class Result:
    """One frame of one source, and what was found in it.

    Attributes:
        source: the source's name in all outputs; without any password.
        frame: the frame itself; its `name` is that of the image where the source is several images.
        detections: best first, in pixels of the frame.
        class_names: what `detections.labels` mean.
        age_ms: from capture to detections.
        tracks: int64 [detections], ids that stay the same from frame to frame, or `NO_TRACK`.
        events: what tracks did in this frame.
        counts: objects by zone, and crossings by line and direction so far, by name; as `record` writes them.
    """

    source: str
    frame: Frame
    detections: Detections
    class_names: tuple[str, ...]
    age_ms: float
    tracks: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    events: tuple[Event, ...] = ()
    counts: dict[str, dict[str, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not len(self.tracks):
            object.__setattr__(self, "tracks", np.full(len(self.detections), NO_TRACK, np.int64))

    @property
    def unix_time(self) -> float:
        """When the frame was captured, in seconds."""
        return self.frame.captured_at + UNIX_OFFSET_S

    def record(self) -> dict[str, Any]:
        """The JSON object of a frame, of schema 1: the same in JSON lines, MQTT and on the web page.

        `{"schema": 1, "source": str, "name": str, "frame": int, "time": float, "age_ms": float, "width": int,
        "height": int, "detections": [...], "events": [...], "counts": {...}}`. `time` is Unix time in seconds. With
        `"media_time": float`, presentation time on the source's own clock in seconds from its start, where it has one,
        and `"damaged": true` where parts of the frame are not what was sent.
        `detections`, best first, are `{"class": str, "label": int, "score": float, "box_xyxy": [x0, y0, x1, y1]}` in
        pixels, with `"track": int` where it has one; `events` are `{"kind", "place", "track", "class"}`. `counts` is
        left out where there are neither zones nor lines.
        """
        height, width = self.frame.size_hw
        record: dict[str, Any] = {
            "schema": 1,
            "source": self.source,
            "name": self.frame.name,
            "frame": self.frame.index,
            "time": round(self.unix_time, 3),
            "age_ms": round(self.age_ms, 1),
            "width": width,
            "height": height,
            "detections": [
                self._detection(*one, int(track)) for one, track in zip(self.detections, self.tracks, strict=True)
            ],
            "events": [
                {"kind": e.kind, "place": e.place, "track": e.track, "class": self.class_names[e.label]}
                for e in self.events
            ],
        }
        if self.frame.media_time_s is not None:
            record["media_time"] = round(self.frame.media_time_s, 3)
        if self.frame.damaged:
            record["damaged"] = True
        return record | ({"counts": self.counts} if self.counts else {})

    def _detection(self, box_xyxy: NDArray[np.float32], score: float, label: int, track: int) -> dict[str, Any]:
        values = {
            "class": self.class_names[label],
            "label": int(label),
            "score": round(float(score), 6),
            "box_xyxy": [round(float(value), 2) for value in box_xyxy],
        }
        return values | ({} if track == NO_TRACK else {"track": track})
