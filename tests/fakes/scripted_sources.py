"""Sources that do what a script says: hang, die, come back, send too fast, change their size."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ssd_edge.errors import SourceError
from ssd_edge.runtime.sources.base import Frame, Place, Source
from ssd_edge.runtime.sources.worker import SourceWorker

Step = int | float | str | threading.Event | Exception | tuple[int, int]


class ScriptedSource(Source):
    """Runs a script: `3` gives three frames at once, `0.1` waits, an event is waited for, `(48, 64)` is the size
    (height, width) from there on, an error is raised, and `"fail"` is one of a source."""

    def __init__(self, script: Sequence[Step], *, live: bool = True) -> None:
        self.name = "scripted"
        self.live = live
        self.closed = False
        self._script = script

    def frames(self) -> Iterator[Frame]:
        index, size_hw = 0, (4, 4)
        for step in self._script:
            if isinstance(step, int):
                for _ in range(step):
                    yield Frame(np.zeros((*size_hw, 3), np.uint8), index, time.monotonic(), self.name)
                    index += 1
            elif isinstance(step, float):
                time.sleep(step)
            elif isinstance(step, threading.Event):
                step.wait(20)
            elif isinstance(step, tuple):
                size_hw = step
            elif isinstance(step, Exception):
                raise step
            else:
                assert step == "fail", step
                raise SourceError("scripted failure")

    def close(self) -> None:
        self.closed = True


class ScriptedPlace:
    """A place that gives the next of its scripts at every opening, and the last one again and again.

    A script that begins with `"no"` cannot be opened.

    Attributes:
        sources: those that were opened.
        asked_at: when it was asked to open, each time.
    """

    def __init__(self, *scripts: Sequence[Step], live: bool = True) -> None:
        self.sources: list[ScriptedSource] = []
        self.asked_at: list[float] = []
        self._scripts, self._live = scripts, live
        self.place = Place("scripted", live, self._open)

    def _open(self) -> Source:
        script = self._scripts[min(len(self.asked_at), len(self._scripts) - 1)]
        self.asked_at.append(time.monotonic())
        if script[:1] == ["no"]:
            raise SourceError("nobody is there")
        if isinstance(script[0], threading.Event) and script[1:2] == ["opened"]:
            script[0].wait(20)
            script = script[2:]
        source = ScriptedSource(script, live=self._live)
        self.sources.append(source)
        return source


def wait_for(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Wait until it holds, or fail."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def all_frames(worker: SourceWorker, changed: threading.Condition) -> list[Frame]:
    """Start a worker, and take its frames as they come, to the end."""
    worker.start()
    frames: list[Frame] = []
    while True:
        with changed:
            assert changed.wait_for(lambda: worker.ready or worker.over, timeout=20)
            if worker.over:
                return frames
            frames.append(worker.take())
