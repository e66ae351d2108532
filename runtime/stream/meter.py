"""Measures a running stream, and shows a live line and a summary."""

from __future__ import annotations

import logging
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Protocol

from ssd_edge.runtime.stats import RollingWindow, StreamStats

logger = logging.getLogger(__name__)
STATS_PERIOD_S = 0.5
ERASE_REST = "\x1b[K"  # of the terminal's line


class Watched(Protocol):
    """What is shown of a source beside its frames; see `SourceWorker`."""

    name: str
    status: str
    dropped: int
    reconnects: int

    @property
    def corrupt(self) -> int: ...
    @property
    def decoder(self) -> str: ...
    @property
    def frame_count(self) -> int | None: ...


class _Series:
    """Frames with their times."""

    def __init__(self) -> None:
        self.frames = self._shown_frames = 0
        self._latency_ms, self._age_ms = RollingWindow(), RollingWindow()

    def add(self, latency_ms: float, age_ms: float) -> None:
        self._latency_ms.add(latency_ms)
        self._age_ms.add(age_ms)
        self.frames += 1

    def fps(self, seconds: float) -> float:
        """Since this was last asked, `seconds` ago."""
        frames, self._shown_frames = self.frames - self._shown_frames, self.frames
        return frames / seconds

    def stats(self, seconds: float, sources: Sequence[Watched]) -> StreamStats:
        return StreamStats(
            frames=self.frames,
            dropped=sum(source.dropped for source in sources),
            seconds=seconds,
            latency_ms=_percentiles(self._latency_ms),
            age_ms=_percentiles(self._age_ms),
            corrupt=sum(source.corrupt for source in sources),
            reconnects=sum(source.reconnects for source in sources),
            decoder=sources[0].decoder if len(sources) == 1 else "",
        )


class Meter:
    """Measures a running stream and, when asked, shows a live line on stderr. A context manager.

    On a terminal the line is renewed twice a second; in a log file it is a line every ten seconds. At the
    end, also after an error, the whole stream's figures are shown.

    Args:
        as_log: log the lines instead.
        on_stats: called twice a second with each source's name and figures.
    """

    def __init__(
        self,
        sources: Sequence[Watched],
        *,
        show: bool,
        as_log: bool = False,
        on_stats: Callable[[str, StreamStats], None] | None = None,
    ) -> None:
        self._sources = sources
        self._total, self._series = _Series(), {source.name: _Series() for source in sources}
        self._show, self._as_log, self._on_stats = show, as_log, on_stats
        self._terminal = sys.stderr.isatty() and not as_log
        self._period_s = 0.5 if self._terminal else 10.0
        self._began_at = self._shown_at = self._told_at = time.monotonic()

    @property
    def frames(self) -> int:
        """Of all sources, so far."""
        return self._total.frames

    def add(self, source: str, *, latency_ms: float, age_ms: float) -> None:
        """Count a frame."""
        self._total.add(latency_ms, age_ms)
        self._series[source].add(latency_ms, age_ms)
        now = time.monotonic()
        if self._show and now - self._shown_at >= self._period_s:
            line = self._line(now - self._shown_at)
            self._shown_at = now
            self._tell(line, renew=self._terminal)
        if self._on_stats and now - self._told_at >= STATS_PERIOD_S:
            self._told_at = now
            for name, stats in self._by_source(now).items():
                self._on_stats(name, stats)

    def stats(self) -> StreamStats:
        """The figures up to now."""
        now = time.monotonic()
        total = self._total.stats(now - self._began_at, self._sources)
        return replace(total, sources=self._by_source(now)) if len(self._sources) > 1 else total

    def _by_source(self, now: float) -> dict[str, StreamStats]:
        return {one.name: self._series[one.name].stats(now - self._began_at, [one]) for one in self._sources}

    def _line(self, seconds: float) -> str:
        stats = self._total.stats(seconds, self._sources)
        p50, p95, p99 = stats.latency_ms
        counts = [source.frame_count for source in self._sources]
        of = f"/{sum(filter(None, counts))}" if all(counts) else ""
        figures = [
            f"frame {stats.frames}{of}",
            f"{self._total.fps(seconds):.1f} FPS",
            f"latency p50 {p50:.1f} p95 {p95:.1f} p99 {p99:.1f} ms",
            f"age p50 {stats.age_ms[0]:.0f} p95 {stats.age_ms[1]:.0f} ms",
            f"dropped {stats.dropped}",
            ", ".join(self._brief(source, seconds) for source in self._sources),
        ]
        return " | ".join(figures)

    def _brief(self, source: Watched, seconds: float) -> str:
        fps = self._series[source.name].fps(seconds)
        if source.status not in ("ok", ""):
            return f"{source.name} {source.status}"
        name = f"{source.name} [{source.decoder}]" if source.decoder else source.name
        return f"{name} {fps:.1f}" if len(self._sources) > 1 else name

    def _tell(self, line: str, *, renew: bool = False) -> None:
        if self._as_log:
            logger.info("%s", line)
        elif renew:
            line = line[: shutil.get_terminal_size().columns - 1]  # one that wraps could not be renewed
            # The cursor goes back to the start: a warning then replaces the line and does not extend it.
            print(line + ERASE_REST, end="\r", file=sys.stderr, flush=True)
        else:
            print(line + (ERASE_REST if self._terminal else ""), file=sys.stderr, flush=True)

    def __enter__(self) -> Meter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._show:
            return
        stats = self.stats()
        for name, of_source in stats.sources.items():
            self._tell(f"{name}: {of_source}")
        self._tell(f"{self._sources[0].name if len(self._sources) == 1 else 'all'}: {stats}")


def _percentiles(window: RollingWindow) -> tuple[float, float, float]:
    return window.percentile(50), window.percentile(95), window.percentile(99)
