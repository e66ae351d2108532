"""One source for months: read in a thread of its own, watched by another, opened again when it fails."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ssd_edge.errors import SourceError
from ssd_edge.runtime.pixels import bytes_of
from ssd_edge.runtime.redact import clean_text
from ssd_edge.runtime.sources.base import TIMEOUT_S, Frame, Place, Source
from ssd_edge.runtime.sources.images import is_image
from ssd_edge.runtime.sources.timeline import Pace, Timeline

logger = logging.getLogger(__name__)

CAPACITY = 4, 16  # frames of a file that are read ahead: so many at least, and at most
READ_AHEAD_BYTES = 32 * 2**20  # what decides in between
POLL_S = 0.05  # how soon the end of a reader, a stall and a stop are seen
STALLED_S = 3.0  # without a frame
STOOD_STILL_S = 0.5  # a wait that takes so much longer: all of this process did, by Ctrl-Z or a paused virtual machine
GRACE_S = 2.0  # beyond the time-out that a source keeps by itself
MAX_HANGING = 3  # readers of one source that were given up and have not come back

# Of a source, as sinks are told.
OK, STALLED, RECONNECTING, ENDED, FAILED = "ok", "stalled", "reconnecting", "ended", "failed"


@dataclass(frozen=True)
class Retry:
    """When a source that failed is opened again.

    Attributes:
        limit: how often, in a row; None for ever.
        first_s: step of the first wait; each next one is twice as long, up to `most_s`.
        most_s: longest step.
    """

    limit: int | None = None
    first_s: float = 0.5
    most_s: float = 30.0

    def step_s(self, failures: int) -> float:
        """The step after so many failures in a row, from 1."""
        return min(self.most_s, self.first_s * 2.0 ** min(failures - 1, 30))

    def wait_s(self, failures: int) -> float:
        """The step, shortened at random: many sources that failed together do not come back all at once."""
        return self.step_s(failures) * random.uniform(0.5, 1.0)


class SourceWorker:
    """Reads a source, and opens it again after a failure; `take` gives its frames.

    Of a live source only the newest frame is kept, the others are dropped and counted. Of a file none is lost: its
    reader waits while enough of them are ready (`CAPACITY`). Frames are numbered on over every new beginning, and have
    the name of the worker, unless they are images.

    Two threads: a reader, new for every opening, and one that watches it. A reader that hangs in a driver cannot be
    ended: it is given up, and what it may still bring goes nowhere.

    Args:
        changed: notified when there is a frame, and when there will be no more.
        opened: the source of the place, where it is open already.
        loop: begin anew where the source ends.
        max_fps: frames per second of the source that are handed on; the others are passed over, and are not `dropped`.
            None for all.
        on_status: called with status and detail at every change, from any of the threads.

    Attributes:
        status: ok, stalled, reconnecting, ended or failed; "" before the first frame.
        error: why it failed, else None.
        dropped: frames that were replaced by a newer one before anyone took them.
        reconnects: how often it was opened again after a failure.
        next_index: the number of the next frame that its reader brings.
    """

    def __init__(
        self,
        place: Place,
        changed: threading.Condition,
        *,
        name: str | None = None,
        opened: Source | None = None,
        retry: Retry | None = None,
        loop: bool = False,
        max_fps: float | None = None,
        timeout_s: float = TIMEOUT_S,
        on_status: Callable[[str, str], None] = lambda status, detail: None,
    ) -> None:
        self.name = name or place.name
        self.status = ""
        self.error: SourceError | None = None
        self.dropped = self.reconnects = 0
        self._place, self._retry, self._loop = place, retry or Retry(), loop
        self._timeline, self._pace = Timeline(), Pace(max_fps)
        self._hang_s = timeout_s + GRACE_S
        self._on_status = on_status
        self._status_lock = threading.Lock()
        self._changed = changed
        self._opened = opened
        self._source = opened  # what it was like when it was last open
        self._corrupt_before = 0
        self.next_index = 0
        self._ready: deque[Frame] = deque()
        self._capacity = CAPACITY[0]
        self._wanted = threading.Event()  # there is room for some frames, not for one: threads change less often
        self._done = False
        self._hanging: list[_Reader] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name=f"watch {self.name}", daemon=True)

    @property
    def live(self) -> bool:
        """It does not wait for the reader; a remote place is taken for live until it is open."""
        return self._source.live if self._source else self._place.remote

    @property
    def fps(self) -> float | None:
        """As of a `Source`; None before it is open."""
        return self._source.fps if self._source else None

    @property
    def frame_count(self) -> int | None:
        """As of a `Source`."""
        return self._source.frame_count if self._source and not self._loop else None

    @property
    def paths(self) -> tuple[Path, ...]:
        """As of a `Source`."""
        return self._source.paths if self._source else ()

    @property
    def decoder(self) -> str:
        """As of a `Source`; "" before it is open."""
        return self._source.decoder if self._source else ""

    @property
    def corrupt(self) -> int:
        """Frames that came damaged, over all openings."""
        return self._corrupt_before + (self._source.corrupt if self._source else 0)

    @property
    def hanging(self) -> int:
        """Readers that were given up and have not come back."""
        self._hanging = [reader for reader in self._hanging if reader.is_alive()]
        return len(self._hanging)

    @property
    def ready(self) -> bool:
        """There is a frame to take; call with `changed` held."""
        return bool(self._ready)

    @property
    def over(self) -> bool:
        """There will be no more frames; call with `changed` held."""
        return self._done and not self._ready

    def take(self) -> Frame:
        """The next frame; call with `changed` held, and when `ready`."""
        frame = self._ready.popleft()
        if len(self._ready) <= self._capacity // 2:
            self._wanted.set()
        return frame

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def request_stop(self) -> None:
        """Read no more; returns at once."""
        self._stop.set()

    def close(self, timeout_s: float) -> bool:
        """Read no more, and wait for the threads; False where one hangs, which only the end of the process ends."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        elif self._opened is not None:
            self._opened.close()
            self._opened = None
        return not (self._thread.is_alive() or self.hanging)

    def _supervise(self) -> None:
        failures = 0
        while not self._stop.is_set():
            reader = _Reader(self._open, self._put, first_index=self.next_index)
            error = self._watch(reader)
            if self._stop.is_set() or (error is None and self._loop):
                continue
            if error is None:
                self._set_status(ENDED)
                break
            failures = 1 if reader.well_for_s > self._retry.step_s(failures) else failures + 1
            if self._retry.limit is not None and failures > self._retry.limit:
                self.error = error
                self._set_status(FAILED, str(error))
                break
            self._set_status(RECONNECTING, str(error))
            self._stop.wait(self._retry.wait_s(failures))
            while self.hanging >= MAX_HANGING and not self._stop.wait(POLL_S):
                pass
            self.reconnects += 1
        with self._changed:
            self._done = True
            self._changed.notify_all()

    def _watch(self, reader: _Reader) -> SourceError | None:
        """Wait for the end of the reader; returns why, None where the source has ended or nobody wants more."""
        awake_at = looked_at = time.monotonic()
        try:
            reader.start()
        except RuntimeError as error:  # as many threads as there may be
            return SourceError(f"{self.name} cannot be read: {error}; end other programs")
        silent_s = 0.0
        while silent_s < self._hang_s:
            if silent_s > STALLED_S and self.status == OK:
                self._set_status(STALLED, f"no frame for {silent_s:.0f} s")
            reader.join(POLL_S)
            if not reader.is_alive():
                return reader.error
            now = time.monotonic()
            if now - looked_at > POLL_S + STOOD_STILL_S:
                awake_at = now
            looked_at = now
            silent_s = now - max(reader.asked_at or now, awake_at)
        with self._changed:
            reader.given_up = True
        self._hanging.append(reader)
        return SourceError(f"{self.name} hangs: no answer within {self._hang_s:g} s; check the device")

    def _open(self, reader: _Reader) -> Source:
        source, self._opened = self._opened or self._place.open(), None
        with self._changed:
            if not reader.given_up:
                self._corrupt_before = self.corrupt
                self._source = source
                self._timeline.begin()
        return source

    def _put(self, reader: _Reader, frame: Frame) -> bool:
        """Take a frame from the reader; False when it is to end."""
        if not (self._stop.is_set() or reader.given_up):
            self._set_status(OK)  # whoever gets the frame finds the source well
        index = reader.first_index + frame.index
        with self._changed:
            if self._stop.is_set() or reader.given_up:
                return False
            at_s = self._timeline.at_s(frame, live=self.live, fps=self.fps)
            if not self._pace.wants(at_s):
                self.next_index = index + 1
                return True
        fitting = READ_AHEAD_BYTES // bytes_of(frame.pixels)
        self._capacity = min(max(fitting, CAPACITY[0]), CAPACITY[1])
        named = any(map(is_image, self.paths))  # images keep their names
        frame = replace(frame, index=index, name=frame.name if named else self.name, at_s=at_s)
        while True:
            with self._changed:
                if self._stop.is_set() or reader.given_up:
                    return False
                if self.live or len(self._ready) < self._capacity:
                    while self.live and self._ready:
                        self._ready.popleft()
                        self.dropped += 1
                    self._ready.append(frame)
                    self.next_index = index + 1
                    self._changed.notify_all()
                    return True
                self._wanted.clear()
            self._wanted.wait(POLL_S)

    def _set_status(self, status: str, detail: str = "") -> None:
        with self._status_lock:
            if status == self.status:
                return
            expected = status == ENDED or (status == OK and not self.status)
            trouble = status in (STALLED, RECONNECTING, FAILED)
            level = logging.WARNING if trouble else logging.DEBUG if expected else logging.INFO
            self.status = status
            logger.log(level, "%s: %s", self.name, f"{status}: {detail}" if detail else status)
            self._on_status(status, detail)


class _Reader(threading.Thread):
    """One opening of a source: hands on its frames until it ends, fails, or nobody wants them.

    Attributes:
        asked_at: when what the source has not given yet was asked of it; None: it has given all.
        given_up: what it still brings goes nowhere.
        error: why it failed.
        first_index: the number of its first frame.
        well_for_s: from its first frame to its last one.
    """

    def __init__(
        self, open_source: Callable[[_Reader], Source], put: Callable[[_Reader, Frame], bool], *, first_index: int
    ) -> None:
        super().__init__(name="reader", daemon=True)
        self._open_source, self._put = open_source, put
        self.asked_at: float | None = time.monotonic()
        self.given_up = False
        self.error: SourceError | None = None
        self.first_index = first_index
        self.well_for_s = 0.0

    def run(self) -> None:
        """Read to the end."""
        try:
            with self._open_source(self) as source:
                began_at = None
                for frame in source.frames():
                    self.asked_at = None
                    began_at = began_at or time.monotonic()
                    self.well_for_s = time.monotonic() - began_at
                    if not self._put(self, frame):
                        return
                    self.asked_at = time.monotonic()
        except SourceError as error:
            error.__context__ = None  # FFmpeg's own; its traceback, as this one's, holds the source and its decoder
            self.error = error.with_traceback(None)
        except Exception as error:  # nothing may end a thread unseen
            logger.debug("a source failed", exc_info=True)
            self.error = SourceError(f"unexpected {type(error).__name__}: {clean_text(str(error))}")
