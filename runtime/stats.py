"""What a stream has done and how fast, in memory that does not grow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

WINDOW = 1000  # frames that percentiles look back on


class RollingWindow:
    """The newest values of a series."""

    def __init__(self, size: int = WINDOW) -> None:
        self._values = np.zeros(size)
        self._count = 0

    def add(self, value: float) -> None:
        """Add a value; it replaces the oldest one when the window is full."""
        self._values[self._count % len(self._values)] = value
        self._count += 1

    def percentile(self, percent: float) -> float:
        """Linear between values; 0 while there is none."""
        values = self._values[: self._count]
        return float(np.percentile(values, percent)) if len(values) else 0.0


@dataclass(frozen=True)
class StreamStats:
    """The figures of a stream, or of one source of it.

    Attributes:
        frames: frames that went through the detector.
        dropped: frames of a live source that came while an older one was worked on.
        seconds: from the first frame wanted to now.
        latency_ms: p50, p95, p99 of preprocess, inference and NMS of the batch that a frame was in, over the last
            `WINDOW` frames.
        age_ms: p50, p95, p99 of the time from capture to detections; in a file, waiting in the queue counts.
        corrupt: frames that came so damaged that they were left out.
        reconnects: how often a source was opened again after a failure.
        decoder: what decodes the source, such as "h264 (FFmpeg)"; "" of several sources.
        sources: the same by source, where there are several.
    """

    frames: int
    dropped: int
    seconds: float
    latency_ms: tuple[float, float, float]
    age_ms: tuple[float, float, float]
    corrupt: int = 0
    reconnects: int = 0
    decoder: str = ""
    sources: Mapping[str, StreamStats] = field(default_factory=dict)

    @property
    def fps(self) -> float:
        """Frames a second over the whole stream."""
        return self.frames / self.seconds if self.seconds > 0 else 0.0

    def __str__(self) -> str:
        p50, p95, p99 = self.latency_ms
        faults = [(self.dropped, "dropped"), (self.corrupt, "damaged"), (self.reconnects, "reconnects")]
        return (
            f"{self.frames} frames in {self.seconds:.1f} s, {self.fps:.1f} FPS; latency p50 {p50:.1f}, p95 {p95:.1f}, "
            f"p99 {p99:.1f} ms; age p50 {self.age_ms[0]:.1f}, p95 {self.age_ms[1]:.1f} ms; "
            + ", ".join(f"{count} {what}" for count, what in faults if count or what == "dropped")
        )
