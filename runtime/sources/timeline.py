"""`Timeline`: time stamps of a source as one clock that never goes back; `Pace`: frames at most so often."""

from __future__ import annotations

import math

from ssd_edge.runtime.sources.base import Frame

LATE_S = 2.0  # a source's clock that differs by more from ours, over all that came before, was set or stood still
DRIFT = 0.01  # how fast, in seconds per second, an earlier arrival is forgotten: clocks differ by far less
BACK_S = 0.5  # a file whose frames go back by more is of several pieces; by less, its time stamps are inexact
STEP_S = 1e-3  # from a frame to one that would be no later; and how coarse time stamps are, in Matroska and others


class Timeline:
    """Gives frames a time that grows from frame to frame, over new openings too.

    Of a file it is the file's own time, and goes on where the file is played again. Of a live source it is our clock:
    its frames lie as far apart as its own time stamps say, and not as their arrival, which the network delays by
    turns; the offset is that of the frame that came with the least delay. Where the source's clock is set or stands
    still, arrival counts.
    """

    def __init__(self) -> None:
        self._last_s: float | None = None
        self._interval_s = 0.0
        self._offset_s: float | None = None  # from the source's clock to ours
        self._media_time_s = 0.0
        self._arrived_at = 0.0

    def begin(self) -> None:
        """The source is opened, or opened again: its clock starts again."""
        self._offset_s = None

    def at_s(self, frame: Frame, *, live: bool, fps: float | None) -> float:
        """When a frame is.

        Args:
            frame: the next one; where its source has set `at_s`, that counts.
            live: of the frame's source.
            fps: of the frame's source, for frames without a time stamp.
        """
        at_s = frame.at_s
        if at_s is None:
            at_s = self._live_s(frame) if live else self._file_s(frame.media_time_s, fps)
        if self._last_s is not None:
            at_s = max(at_s, self._last_s + STEP_S)
            self._interval_s = at_s - self._last_s
        self._last_s = at_s
        return at_s

    def _file_s(self, media_time_s: float | None, fps: float | None) -> float:
        if media_time_s is None:  # an image; or a video whose frames have no times of their own
            return 0.0 if self._last_s is None else self._last_s + (1 / fps if fps else STEP_S)
        if self._last_s is None:
            self._offset_s = 0.0
        elif self._offset_s is None or media_time_s + self._offset_s < self._last_s - BACK_S:  # played again, or a jump
            self._offset_s = self._last_s + (self._interval_s or STEP_S) - media_time_s
        return media_time_s + self._offset_s

    def _live_s(self, frame: Frame) -> float:
        arrived_at, elapsed_s = frame.captured_at, frame.captured_at - self._arrived_at
        self._arrived_at = arrived_at
        if frame.media_time_s is None:
            return arrived_at
        went_on, self._media_time_s = frame.media_time_s > self._media_time_s, frame.media_time_s
        new_offset_s = arrived_at - frame.media_time_s
        late_s = math.inf if self._offset_s is None else new_offset_s - self._offset_s
        if not (went_on and 0 <= late_s <= LATE_S):  # the first frame, earlier than any before, or the clock was set
            self._offset_s = new_offset_s
            return arrived_at
        assert self._offset_s is not None
        self._offset_s += min(late_s, DRIFT * elapsed_s)
        return frame.media_time_s + self._offset_s


class Pace:
    """Chooses frames so that there are at most so many per second, evenly over time.

    Args:
        fps: frames per second; None for all.
    """

    def __init__(self, fps: float | None) -> None:
        self._interval_s = 1 / fps if fps else 0.0
        self._due_s = -math.inf

    def wants(self, at_s: float) -> bool:
        """Whether the frame of that time is one of them; times grow."""
        if at_s < self._due_s - STEP_S:
            return False
        # Counted on from when it was due, so that rates between a source's own come out; after a gap, from here.
        late = at_s - self._due_s >= self._interval_s
        self._due_s = (at_s if late else self._due_s) + self._interval_s
        return True
