"""Ids that stay with what is seen, from frame to frame."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssd_edge.detections import Detections
from ssd_edge.errors import MissingDependencyError, UsageError
from ssd_edge.option_checks import is_number, is_whole
from ssd_edge.runtime.results import NO_TRACK
from ssd_edge.runtime.tracking.geometry import REFERENCE

FPS = 30.0  # that ByteTrack counts lost frames in, whatever the source's


@dataclass(frozen=True)
class TrackOptions:
    """How detections become tracks.

    Attributes:
        score: a track begins with detections of at least this score; weaker ones only carry it on.
        lost_s: how long a track goes on without a detection.
        frames: successive frames with a detection that a track begins with; its id shows from the last of them on.

    Raises:
        UsageError: a value is out of range.
    """

    score: float = 0.5
    lost_s: float = 1.0
    frames: int = 2

    def __post_init__(self) -> None:
        for name, value, good, expected in (
            ("score", self.score, is_number(self.score) and 0 <= self.score <= 1, "a number from 0 to 1"),
            ("lost_s", self.lost_s, is_number(self.lost_s) and 0 < self.lost_s < math.inf, "seconds above 0"),
            ("frames", self.frames, is_whole(self.frames) and self.frames >= 1, "a whole number from 1 up"),
        ):
            if not good:
                raise UsageError(f"track: {name} must be {expected}, got {value!r}")


class Tracker:
    """ByteTrack, as the package `trackers` has it: Kalman filters, and boxes matched to them by overlap.

    Zhang et al., ByteTrack: Multi-Object Tracking by Associating Every Detection Box, ECCV 2022.

    Attributes:
        alive: ids of the tracks that are not over, also of those without a detection in the last frame.

    Raises:
        MissingDependencyError: the package is not there.
    """

    def __init__(self, options: TrackOptions) -> None:
        try:  # here, not above: it brings SciPy, and only those who track need it
            import supervision
            from trackers import ByteTrackTracker
        except ModuleNotFoundError as error:
            raise MissingDependencyError(f"tracks, zones and lines need the package {error.name}", "track") from error
        self._to_supervision = supervision.Detections
        self._tracker = ByteTrackTracker(
            lost_track_buffer=max(1, round(FPS * options.lost_s)),
            frame_rate=FPS,
            track_activation_threshold=options.score,
            high_conf_det_threshold=options.score,
            minimum_consecutive_frames=options.frames,
        )
        self._lost_s = self._tracker.maximum_time_without_update
        self._time_s = self._step_s = self._clock_s = 0.0
        self.alive: frozenset[int] = frozenset()

    def update(self, detections: Detections, time_s: float) -> NDArray[np.int64]:
        """int64 [detections]: the track of each, from 1 on, or `NO_TRACK`. No number is given twice.

        Args:
            detections: of one frame, in units of `REFERENCE`, so that the filters' noise fits every picture.
            time_s: of the frame. One that lies back ends all tracks: the source has begun anew.
        """
        # One tracker for all classes, which are so far apart that their boxes never overlap: a track keeps its class.
        apart = (4 * REFERENCE * detections.labels)[:, None]  # [n, 1]
        found = self._to_supervision(
            xyxy=detections.boxes_xyxy + apart,
            confidence=detections.scores,
            data={"index": np.arange(len(detections))},
        )
        matched = self._tracker.update(found, timestamp=self._clock(time_s))
        tracks = np.full(len(detections), NO_TRACK, np.int64)
        if matched.tracker_id is not None and len(matched):
            tracks[matched.data["index"]] = np.where(matched.tracker_id < 0, NO_TRACK, matched.tracker_id + 1)
        self.alive = frozenset(1 + track.tracker_id for track in self._tracker.tracks if track.tracker_id >= 0)
        return tracks

    def _clock(self, time_s: float) -> float:
        """A clock that only goes forward, and in which a track outlives one interval of a slow source."""
        last_step_s, self._step_s = self._step_s, time_s - self._time_s
        self._time_s = time_s
        if self._step_s <= 0:
            self._clock_s += 2 * self._lost_s
        elif min(last_step_s, self._step_s) > self._lost_s:  # twice in a row: the source is slow, not interrupted
            self._clock_s += 0.99 * self._lost_s
        else:
            self._clock_s += self._step_s
        return self._clock_s
