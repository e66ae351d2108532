"""`Sink`: where results go."""

# ruff: noqa: B027 - methods that a sink may leave out do nothing

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssd_edge.runtime.results import Result
from ssd_edge.runtime.sinks.disk_space import FREE_FLOOR_BYTES
from ssd_edge.runtime.stats import StreamStats


@dataclass(frozen=True)
class Recording:
    """How a video is kept; see `VideoRecorder`."""

    segment_s: float | None = None
    keep_bytes: int | None = None
    free_floor_bytes: int = FREE_FLOOR_BYTES


class EndOfStream(Exception):
    """A sink's word that the user asks to end: nothing has gone wrong."""


class Sink(ABC):
    """Takes each frame of a stream with what was found in it, in a thread of its own.

    Constructing one checks that it will be able to write, and destroys nothing yet. Only `write` has to be there; the
    other methods do nothing.

    Attributes:
        needs_pixels: it looks at the frames. Without that, all their pixels are black, and far more results can wait.
        wants_stats: `stats` is called, twice a second.
        idle_s: seconds without a result after which `idle` is called, again and again; None for never.
    """

    needs_pixels: bool = True
    wants_stats: bool = False
    idle_s: float | None = None

    @property
    def needs_drawing(self) -> bool:
        """It wants the frame with its overlay; may change with time."""
        return True

    @abstractmethod
    def write(self, result: Result, drawn_bgr: NDArray[np.uint8]) -> None:
        """Take a frame.

        Args:
            drawn_bgr: uint8 [H, W, 3], the frame with its overlay; black where that is not wanted (`needs_drawing`):
                the frame itself is `result.frame.image_bgr`, made only then. Must not be changed.

        Raises:
            SinkError: it cannot be written.
            EndOfStream: the user asks to end.
        """

    def status(self, source: str, status: str, detail: str) -> None:
        """Take the new status of a source.

        Args:
            status: `ok`, `stalled`, `reconnecting`, `ended` or `failed`.
            detail: why, or "".
        """

    def stats(self, source: str, stats: StreamStats) -> None:
        """Take the figures of a source."""

    def idle(self) -> None:
        """Do what is due while no result comes.

        Raises:
            EndOfStream: the user asks to end.
        """

    def close(self) -> None:
        """Complete the output."""
