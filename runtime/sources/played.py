"""Files played in real time, as if they were a camera."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

from ssd_edge.runtime.sources.base import Frame, Source

PLAYED_FPS = 25.0  # of what is played in real time and does not tell its own


class PlayedSource(Source):
    """A file as if it were a camera: frames come at its own pace, whether someone takes them or not."""

    live = True

    def __init__(self, file: Source, fps: float | None = None) -> None:
        self.name = file.name
        self.fps = fps or file.fps or PLAYED_FPS
        self.frame_count = file.frame_count
        self.paths = file.paths
        self._file = file

    def frames(self) -> Iterator[Frame]:
        began_at, interval_s = time.monotonic(), 1 / (self.fps or PLAYED_FPS)
        for frame in self._file.frames():
            time.sleep(max(0.0, began_at + frame.index * interval_s - time.monotonic()))
            self.corrupt = self._file.corrupt
            yield replace(frame, captured_at=time.monotonic())

    def close(self) -> None:
        self._file.close()
