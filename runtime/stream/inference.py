"""Batches through the detector, in order, as many under way at once as it has slots for."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator

from ssd_edge.detections import Detections
from ssd_edge.images import ImageError
from ssd_edge.runtime.backends.base import Detector
from ssd_edge.runtime.stream.batcher import POLL_S, Batch, Batcher
from ssd_edge.runtime.stream.stop import Stop

OUTPUTS_END_S = 1.5  # of `END_S`: what is not detected by then is given up, so that outputs can be completed


class Inference:
    """Hands batches to a detector, and gives them back with their detections, in order.

    Detections are held back for the next frames only where these are there already.

    Args:
        under_way: where batches are kept from when they are submitted until they are given back.
        latency: batches of one frame.
        max_frames: end after so many frames, None for all.
    """

    def __init__(
        self,
        detector: Detector,
        batcher: Batcher,
        under_way: deque[Batch],
        stop: Stop,
        *,
        latency: bool = False,
        max_frames: int | None = None,
    ) -> None:
        self._detector, self._batcher, self._under_way, self._stop = detector, batcher, under_way, stop
        self._most = 1 if latency else detector.batch
        self._left = sys.maxsize if max_frames is None else max_frames
        detector.on_done = batcher.wake

    def batches(self) -> Iterator[tuple[Batch, list[Detections]]]:
        """All batches until the end, each with its detections, one `Detections` per frame.

        Raises:
            ImageError: a frame cannot be one; the batches before it are given first.
        """
        while True:
            batch = self._next_batch()
            if batch:
                try:
                    self._submit(batch)
                except ImageError:  # from a source of one's own; the frames before it are whole
                    yield from self._one_by_one(batch)
            elif not self._under_way:
                return
            if not batch or len(self._under_way) >= self._detector.slots:
                yield from self._finished()

    def _submit(self, batch: Batch) -> None:
        self._detector.submit([frame.pixels for _, frame in batch])
        self._under_way.append(batch)

    def _one_by_one(self, batch: Batch) -> Iterator[tuple[Batch, list[Detections]]]:
        """What is under way, and then each frame of a batch up to one that cannot be a frame, which raises."""
        while self._under_way:
            yield from self._finished()
        for one in batch:
            self._submit([one])
            yield from self._finished()

    def _next_batch(self) -> Batch:
        """Empty where there is none before the detector is done with the earliest, and at the end."""
        batch: Batch = []
        if self._left:
            batch = self._batcher.take(min(self._most, self._left), until=self._is_one_done)
        self._left -= len(batch)
        return batch

    def _is_one_done(self) -> bool:
        return bool(self._under_way) and self._detector.wait()

    def _finished(self) -> Iterator[tuple[Batch, list[Detections]]]:
        """The earliest batch; at the end of the stream none, and no other, where it takes too long."""
        while not self._detector.wait(POLL_S):
            left_s = self._stop.time_left_s()
            if left_s is not None and left_s < OUTPUTS_END_S:
                self._under_way.clear()
                return
        yield self._under_way.popleft(), self._detector.collect()
