"""Reading frames in a thread of its own, so that decoding and inference overlap."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from types import TracebackType

from ssd_edge.runtime.sources import Frame, Source

POLL_S = 0.1  # how soon a waiting side sees `request_stop`
JOIN_S = 2.0  # a read that hangs longer is left to the end of the process


class Capture:
    """Reads a source in a thread; iterate over it, once, to get the frames. A context manager.

    From a live source only the newest frame is kept, the others are dropped and counted. From any other
    source none is lost: the thread waits while `capacity` frames are ready. An error in the thread is raised
    where the frames are consumed, after those that were read before it.

    Attributes:
        dropped: frames that were replaced by a newer one before anyone took them.
    """

    def __init__(self, source: Source, *, capacity: int = 4) -> None:
        self._source = source
        self._capacity = 1 if source.live else capacity
        self._ready: deque[Frame] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._stopped = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._read, name="capture", daemon=True)
        self.dropped = 0

    def request_stop(self) -> None:
        """End the iteration soon; takes no lock, so that a signal handler may call it."""
        self._stopped = True

    def __iter__(self) -> Iterator[Frame]:
        self._thread.start()
        while True:
            with self._changed:
                while not (self._ready or self._ended or self._stopped):
                    self._changed.wait(POLL_S)
                if self._stopped:
                    return
                frame = self._ready.popleft() if self._ready else None
                self._changed.notify_all()
            if frame is None:
                break
            yield frame
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Capture:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the thread, then close the source; while a read hangs, closing it would crash."""
        self.request_stop()
        if self._thread.ident is not None:
            self._thread.join(JOIN_S)
        if not self._thread.is_alive():
            self._source.close()

    def _read(self) -> None:
        try:
            for frame in self._source.frames():
                if not self._put(frame):
                    break
        except BaseException as error:  # nothing may be lost in a thread
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _put(self, frame: Frame) -> bool:
        """Hand over a frame; False when the consumer has stopped."""
        with self._changed:
            while len(self._ready) >= self._capacity and not self._source.live and not self._stopped:
                self._changed.wait(POLL_S)
            if self._stopped:
                return False
            while len(self._ready) >= self._capacity:
                self._ready.popleft()
                self.dropped += 1
            self._ready.append(frame)
            self._changed.notify_all()
            return True
