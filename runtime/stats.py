"""What a stream has done and how fast, in memory that does not grow."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass
from types import TracebackType

import numpy as np

WINDOW = 1000  # frames that percentiles look back on
ERASE_REST = "\x1b[K"  # of the terminal's line


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
    """The figures of a stream.

    Attributes:
        frames: frames that went through the detector.
        dropped: frames of a live source that came while an older one was worked on.
        seconds: from the first frame wanted to now.
        latency_ms: p50, p95, p99 of preprocess, inference and NMS of a frame, over the last `WINDOW` frames.
        age_ms: p50, p95, p99 of the time from capture to detections; in a file, waiting in the queue counts.
    """

    frames: int
    dropped: int
    seconds: float
    latency_ms: tuple[float, float, float]
    age_ms: tuple[float, float, float]

    @property
    def fps(self) -> float:
        """Frames a second over the whole stream."""
        return self.frames / self.seconds if self.seconds > 0 else 0.0

    def __str__(self) -> str:
        p50, p95, p99 = self.latency_ms
        return (
            f"{self.frames} frames in {self.seconds:.1f} s, {self.fps:.1f} FPS; latency p50 {p50:.1f}, "
            f"p95 {p95:.1f}, p99 {p99:.1f} ms; age p50 {self.age_ms[0]:.1f} ms; {self.dropped} dropped"
        )


class Meter:
    """Measures a running stream and, when asked, shows a live line on stderr. A context manager.

    On a terminal the line is renewed twice a second; in a log file it is a line every ten seconds. At the
    end, also after an error, the whole stream's figures are shown.
    """

    def __init__(self, name: str, frame_count: int | None, *, show: bool) -> None:
        self._name = name
        self._of = f"/{frame_count}" if frame_count else ""
        self._show = show
        self._terminal = sys.stderr.isatty()
        self._period_s = 0.5 if self._terminal else 10.0
        self._began_at = self._shown_at = time.monotonic()
        self._shown_frames = 0
        self._latency_ms = RollingWindow()
        self._age_ms = RollingWindow()
        self.frames = 0
        self.dropped = 0

    def add(self, *, latency_ms: float, age_ms: float, dropped: int) -> None:
        """Count a frame; `dropped` is the stream's total so far."""
        self._latency_ms.add(latency_ms)
        self._age_ms.add(age_ms)
        self.frames += 1
        self.dropped = dropped
        now = time.monotonic()
        if self._show and now - self._shown_at >= self._period_s:
            fps = (self.frames - self._shown_frames) / (now - self._shown_at)
            self._shown_at, self._shown_frames = now, self.frames
            self._print_live(self._line(fps))

    def stats(self) -> StreamStats:
        """The figures up to now."""
        return StreamStats(
            frames=self.frames,
            dropped=self.dropped,
            seconds=time.monotonic() - self._began_at,
            latency_ms=_percentiles(self._latency_ms),
            age_ms=_percentiles(self._age_ms),
        )

    def _line(self, fps: float) -> str:
        p50, p95, p99 = _percentiles(self._latency_ms)
        age_ms = self._age_ms.percentile(50)
        return (
            f"frame {self.frames}{self._of} | {fps:.1f} FPS | latency p50 {p50:.1f} "
            f"p95 {p95:.1f} p99 {p99:.1f} ms | age {age_ms:.0f} ms | dropped {self.dropped} | {self._name}"
        )

    def _print_live(self, line: str) -> None:
        if not self._terminal:
            print(line, file=sys.stderr, flush=True)
            return
        line = line[: shutil.get_terminal_size().columns - 1]  # one that wraps could not be renewed
        # The cursor goes back to the start: a warning then replaces the line and does not extend it.
        print(line + ERASE_REST, end="\r", file=sys.stderr, flush=True)

    def __enter__(self) -> Meter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._show:
            print(f"{self._name}: {self.stats()}" + (ERASE_REST if self._terminal else ""), file=sys.stderr)


def _percentiles(window: RollingWindow) -> tuple[float, float, float]:
    return window.percentile(50), window.percentile(95), window.percentile(99)
