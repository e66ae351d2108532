"""Batches of frames from many sources."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from ssd_edge.runtime.sources.base import Frame
from ssd_edge.runtime.sources.worker import SourceWorker

POLL_S = 0.1  # how soon a waiting consumer sees that it is to stop

Batch = list[tuple[SourceWorker, Frame]]


class Batcher:
    """Takes frames of sources as they come: one of each, fairly where not all fit; then more of files.

    So one that is dead or slow holds none up, and none that is fast crowds out the others.

    Args:
        changed: what the workers notify.
        has_room: of sinks: a file's frames, of which none may be lost, stay where they are without it.
        stopped: nobody wants more frames; seen within `POLL_S`.
    """

    def __init__(
        self,
        workers: Sequence[SourceWorker],
        changed: threading.Condition,
        has_room: Callable[[SourceWorker], bool],
        stopped: Callable[[], bool],
    ) -> None:
        self._workers = list(workers)  # those whose turn it is first
        self._changed = changed
        self._has_room = has_room
        self._stopped = stopped

    def wake(self) -> None:
        """Look anew whether there is room, and whether to wait on."""
        with self._changed:
            self._changed.notify_all()

    def take(self, most: int, *, until: Callable[[], bool] = lambda: False) -> Batch:
        """Up to `most` frames; waits until there is one. At the end of all there is none.

        Args:
            until: wait no longer than until this holds; `wake` makes it look.
        """
        with self._changed:
            while not self._stopped():
                chosen = [worker for worker in self._workers if worker.ready and self._may_go(worker)][:most]
                if chosen:
                    # Those that had their turn queue up behind those that waited.
                    self._workers = [worker for worker in self._workers if worker not in chosen] + chosen
                    batch = [(worker, worker.take()) for worker in chosen]
                    while len(batch) < most and (more := [one for one in chosen if one.ready and not one.live]):
                        batch += [(worker, worker.take()) for worker in more[: most - len(batch)]]
                    return batch
                if until() or all(worker.over for worker in self._workers):
                    break
                self._changed.wait(POLL_S)
        return []

    def _may_go(self, worker: SourceWorker) -> bool:
        return worker.live or self._has_room(worker)
