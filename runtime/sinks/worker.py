"""One sink in a thread of its own, behind a bounded queue: slow or broken, it holds nothing up."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssd_edge.errors import SinkError, SsdEdgeError
from ssd_edge.runtime.redact import clean_text
from ssd_edge.runtime.results import Result
from ssd_edge.runtime.sinks.base import EndOfStream, Sink
from ssd_edge.runtime.stats import StreamStats

logger = logging.getLogger(__name__)

CAPACITY = 8  # frames that wait, with their pixels
CAPACITY_WITHOUT_PIXELS = 512


class Picture:
    """A frame with its overlay, drawn when the first sink asks for it, in that one's thread."""

    def __init__(self, result: Result, draw: Callable[[Result], NDArray[np.uint8]]) -> None:
        self._result, self._draw = result, draw
        self._lock = threading.Lock()

    def bgr(self) -> NDArray[np.uint8]:
        """uint8 [H, W, 3]; not to be changed."""
        with self._lock:
            return self._drawn

    @cached_property
    def _drawn(self) -> NDArray[np.uint8]:
        return self._draw(self._result)


class _Job(NamedTuple):
    run: Callable[[], None]
    keep: bool = False  # it is never dropped
    result: bool = False  # it counts when it is dropped


class SinkWorker:
    """Hands results to a sink in a thread of its own.

    Where the queue is full, the oldest result of a live source is dropped and counted. Those of files are never
    dropped: who puts them asks `has_room` first. After an error the sink is closed and marked failed, and what comes
    later goes nowhere.

    Args:
        name: what it is called in messages.
        source: the only source whose results it takes; None for all.
        at_once: frames that the detector may have under way at once.
        on_room: called when there is room again.
        on_end: called when the sink asks to end the stream.

    Attributes:
        dropped: results that were not written because the sink was too slow.
        error: why it failed, else None.
    """

    def __init__(
        self,
        sink: Sink,
        name: str,
        *,
        source: str | None = None,
        at_once: int = 1,
        on_room: Callable[[], None] = lambda: None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.dropped = 0
        self.error: SsdEdgeError | None = None
        self._sink, self._source = sink, source
        self._capacity = max(CAPACITY if sink.needs_pixels else CAPACITY_WITHOUT_PIXELS, 4 * at_once)
        self._on_room, self._on_end = on_room, on_end
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closing = self._done = False
        self._thread = threading.Thread(target=self._run, name=f"sink {name}", daemon=True)
        self._thread.start()

    def has_room(self, coming: int = 0) -> bool:
        """One more frame of a file may come, beside those that are under way. Half of the room is for live sources."""
        return len(self._jobs) + coming < self._capacity // 2 or self._done

    @property
    def wants_stats(self) -> bool:
        """The sink is told the sources' figures."""
        return self._sink.wants_stats

    def takes(self, source: str) -> bool:
        """It takes the results of this source."""
        return self._source in (None, source)

    def put(self, result: Result, picture: Picture, *, keep: bool) -> None:
        """Take a result; never waits.

        Args:
            keep: it must not be dropped.
        """
        if not self._sink.needs_pixels:
            result = replace(result, frame=replace(result.frame, pixels=_black(result)))
        self._put(_Job(partial(self._write, result, picture), keep, True))

    def put_status(self, source: str, status: str, detail: str) -> None:
        """Tell the sink how a source does, if it listens: else that would take a result's place in the queue."""
        if type(self._sink).status is not Sink.status and self.takes(source):
            self._put(_Job(partial(self._sink.status, source, status, detail)))

    def put_stats(self, source: str, stats: StreamStats) -> None:
        """Tell the sink a source's figures."""
        if self.wants_stats and self.takes(source):
            self._put(_Job(partial(self._sink.stats, source, stats)))

    def request_close(self) -> None:
        """Close the sink once all is written; returns at once."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def join(self, timeout_s: float) -> bool:
        """Wait for the end; False if the sink has not ended by then, and is left to the end of the process."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Results that are not written yet."""
        return len(self._jobs)

    def _put(self, job: _Job) -> None:
        with self._changed:
            if self._done:
                return
            if len(self._jobs) >= self._capacity and not job.keep:
                oldest = next((waiting for waiting in self._jobs if not waiting.keep), job)
                self.dropped += oldest.result
                if oldest is job:
                    return
                self._jobs.remove(oldest)
            self._jobs.append(job)
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            while (job := self._next_job()) is not None:
                job.run()
                self._on_room()
        except EndOfStream:
            self._on_end()
        except Exception as error:
            self._fail(error)
        with self._changed:
            self._done = True
            self._jobs.clear()
        self._on_room()
        try:
            self._sink.close()
        except Exception as error:
            self._fail(error)

    def _next_job(self) -> _Job | None:
        """Waits for one; None when there will be no more."""
        with self._changed:
            while not self._jobs and not self._closing:
                if not self._changed.wait(self._sink.idle_s):
                    return _Job(self._sink.idle)
            return self._jobs.popleft() if self._jobs else None

    def _write(self, result: Result, picture: Picture) -> None:
        self._sink.write(result, picture.bgr() if self._sink.needs_drawing else _black(result))

    def _fail(self, error: Exception) -> None:
        if self.error is not None:  # the second error, while closing, is of the same cause
            return
        known = error if isinstance(error, SsdEdgeError) else None
        text = f"unexpected {type(error).__name__}: {error}"
        self.error = known or SinkError(f"{self.name}: {clean_text(text)}")
        logger.debug("a sink failed", exc_info=error)
        logger.warning("%s failed, and the stream goes on without it: %s", self.name, self.error)


def _black(result: Result) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] that takes no memory."""
    return np.broadcast_to(np.uint8(0), (*result.frame.size_hw, 3))


def close_sinks(workers: list[SinkWorker], time_left_s: Callable[[], float | None]) -> bool:
    """Let all sinks write what waits, and end; False where one does not end in time.

    Args:
        time_left_s: for all of them; None for as long as it takes. Asked again and again: it may change.
    """
    for worker in workers:
        worker.request_close()
    while running := [worker for worker in workers if not worker.join(0.0)]:
        left_s = time_left_s()
        if left_s is not None and left_s <= 0:
            break
        time.sleep(0.01)
    for worker in running:
        logger.warning("%s does not end; %d results are lost", worker.name, worker.waiting)
    for worker in workers:
        if worker.dropped:
            logger.warning("%s was too slow for %d results, which it did not get", worker.name, worker.dropped)
    return not running
