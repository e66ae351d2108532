"""Files played in real time, as if they were a camera."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

from ssd_edge.runtime.sources.base import Frame, Source
from ssd_edge.runtime.sources.timeline import Timeline

PLAYED_FPS = 25.0  # of what is played in real time and does not tell its own


class PlayedSource(Source):
    """A file as if it were a camera: frames come when they are due, whether someone takes them or not.

    Args:
        fps: the pace; None: by the file's own time stamps.
    """

    live = True

    def __init__(self, file: Source, fps: float | None = None) -> None:
        self.name, self.paths = file.name, file.paths
        self.fps = fps or file.fps or PLAYED_FPS
        self.frame_count = file.frame_count
        self.decoder = file.decoder
        self._file, self._asked_fps = file, fps

    def frames(self) -> Iterator[Frame]:
        began_at, timeline = time.monotonic(), Timeline()
        for frame in self._file.frames():
            if self._asked_fps is None:
                due_at = began_at + timeline.at_s(frame, live=False, fps=self.fps)
            else:
                due_at = began_at + frame.index / self._asked_fps
            time.sleep(max(0.0, due_at - time.monotonic()))
            self.corrupt = self._file.corrupt
            yield replace(frame, captured_at=time.monotonic(), at_s=due_at)

    def close(self) -> None:
        self._file.close()
