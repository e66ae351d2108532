"""The whole runtime in one loop: sources → batches → detector → sinks, each source and sink in threads of its own."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from ssd_edge.detections import Detections
from ssd_edge.errors import UsageError
from ssd_edge.images import ImageError
from ssd_edge.runtime.backends.base import Detector
from ssd_edge.runtime.cuda.base import CudaFatalError
from ssd_edge.runtime.detector import open_detector
from ssd_edge.runtime.results import Result
from ssd_edge.runtime.sinks.base import Sink
from ssd_edge.runtime.sinks.overlay import draw_result
from ssd_edge.runtime.sinks.worker import Picture, SinkWorker, close_sinks
from ssd_edge.runtime.sources.base import Frame, Place
from ssd_edge.runtime.sources.find import find_source
from ssd_edge.runtime.sources.worker import Retry, SourceWorker
from ssd_edge.runtime.stats import Meter, StreamStats
from ssd_edge.runtime.stream.batcher import POLL_S, Batch, Mixer
from ssd_edge.runtime.stream.config import SourceConfig, StreamConfig
from ssd_edge.runtime.stream.memory import memory_kept_small
from ssd_edge.runtime.stream.open_sinks import open_sinks
from ssd_edge.runtime.stream.stop import END_S, Stop, on_stop_signal
from ssd_edge.runtime.tracking.analytics import Understanding, UnderstandingOptions

__all__ = ["StreamConfig", "run_stream"]

FATAL_END_S = 1.0  # until the end when the GPU is lost
OUTPUTS_END_S = 1.5  # of `END_S`: what is not detected by then is given up, so that outputs can be completed
READERS_END_S = 1.0  # for all sources' threads; one that waits for a dead server is left to the end of the process

_hung: list[Callable[[], bool]] = []  # of each source and sink that did not end: tells whether it has by now


class _Lane:
    """One source, and what is understood of its frames."""

    def __init__(
        self, worker: SourceWorker, options: UnderstandingOptions | None, class_names: tuple[str, ...]
    ) -> None:
        self.worker = worker
        self._class_names = class_names
        self._options = options or UnderstandingOptions()
        fps = None if worker.live else worker.fps  # in a file, time goes by the number of the frame
        self._understanding = Understanding(class_names, options, fps=fps) if options else None

    def result(self, frame: Frame, detections: Detections, age_ms: float) -> Result:
        if self._understanding is None:
            return Result(self.worker.name, frame, detections, self._class_names, age_ms)
        return self._understanding.apply(self.worker.name, frame, detections, age_ms)

    def draw(self, result: Result) -> NDArray[np.uint8]:
        return draw_result(result, self._options.zones, self._options.lines)


def run_stream(config: StreamConfig, *, extra_sinks: Sequence[Sink] = (), progress: bool = True) -> StreamStats:
    """Stream until all sources have ended, a window is closed, or SIGINT or SIGTERM comes.

    In all of these cases, and after an error, every output is completed; after a signal or an error within `END_S`. A
    second signal ends the process at once. A source or sink that fails is named and left out, and the others go on.

    Args:
        extra_sinks: sinks of your own, beside those of the config; closed at the end.
        progress: show a live line and a summary on stderr.

    Raises:
        ModelFileError, SourceError, SinkError, UsageError: before the first frame where possible; at the end, what made
            a source or a sink fail.
        CudaFatalError: the GPU is lost; only a new process can go on.
    """
    if len({source.options.transport for source in config.sources if str(source.uri).startswith("rtsp")}) > 1:
        raise UsageError("RTSP sources over TCP and over UDP; expected one of them for all, as OpenCV has it")
    stop, changed = Stop(), threading.Condition()
    workers: list[SourceWorker] = []
    sinks: list[SinkWorker] = []

    def finish(kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            stop.request(FATAL_END_S if isinstance(error, CudaFatalError) else END_S)
        for worker in workers:
            worker.request_stop()
        close_sinks(sinks, stop.time_left_s)
        ends_at = time.monotonic() + READERS_END_S
        for worker in workers:
            if not worker.close(max(0.0, ends_at - time.monotonic())):
                _hung.append(partial(worker.close, 0.0))
        _hung.extend(partial(sink.join, 0.0) for sink in sinks if not sink.join(0.0))

    def close_sources() -> None:  # where `finish` is not reached
        for worker in workers:
            worker.close(0.0)

    with ExitStack() as stack:
        stack.enter_context(on_stop_signal(stop.request))
        stack.callback(close_sources)
        for source in config.sources:
            workers.append(_open_worker(source, changed, sinks, {worker.name for worker in workers}))
        detector = stack.enter_context(
            # Decoding, drawing and encoding need the cores too: on two busy ones, threads that sleep while they wait
            # gave twice the frames a second of threads that spin.
            open_detector(
                config.model,
                threads=config.threads,
                score_threshold=config.score_threshold,
                spin=False,
                overlap=not config.latency,
                parallel=1 if config.latency else _frames_at_once(workers),
            )
        )
        stack.push(finish)  # after the detector, which may hang when it is closed: outputs come first
        lanes = {
            worker.name: _Lane(worker, source.understanding, detector.card.class_names)
            for worker, source in zip(workers, config.sources, strict=True)
        }
        under_way: deque[Batch] = deque()
        mixer = Mixer(workers, changed, partial(_has_room, sinks, under_way), lambda: stop.requested)
        for begin in open_sinks(config, workers, extra_sinks):
            at_once = detector.slots * detector.batch
            sinks.append(begin(at_once=at_once, on_room=mixer.wake, on_end=stop.request))
        stack.enter_context(memory_kept_small())
        for worker in workers:
            worker.start()
        on_stats = partial(_tell, sinks) if any(sink.wants_stats for sink in sinks) else None
        meter = stack.enter_context(
            Meter(workers, show=progress, as_log=config.log_format == "json", on_stats=on_stats)
        )
        for batch, found in _detect(detector, mixer, under_way, stop, config):
            now = time.monotonic()
            for (worker, frame), detections in zip(batch, found, strict=True):
                lane, age_ms = lanes[worker.name], 1e3 * (now - frame.captured_at)
                result = lane.result(frame, detections, age_ms)
                meter.add(worker.name, latency_ms=detector.timings.total_ms, age_ms=age_ms)
                picture = Picture(result, lane.draw)
                for sink in sinks:
                    if sink.takes(worker.name):
                        sink.put(result, picture, keep=not worker.live)
        stats = meter.stats()
    for error in (*(sink.error for sink in sinks), *(worker.error for worker in workers)):
        if error is not None:
            raise error
    return stats


def hangs() -> bool:
    """A source or sink of an earlier `run_stream` still hangs in a thread, as in a driver."""
    return not all(has_ended() for has_ended in _hung)


def _open_worker(
    source: SourceConfig, changed: threading.Condition, sinks: list[SinkWorker], taken: set[str]
) -> SourceWorker:
    """The worker of a source, under a name that no other has. What is on this machine is opened at once.

    Raises:
        SourceError: there is no such thing.
    """
    place = source.uri if isinstance(source.uri, Place) else find_source(source.uri, source.options)
    wanted = source.name or place.name
    name = next(name for name in (wanted, *(f"{wanted} ({number})" for number in range(2, 1000))) if name not in taken)

    def tell_status(status: str, detail: str) -> None:
        for sink in sinks:
            sink.put_status(name, status, detail)

    return SourceWorker(
        place,
        changed,
        name=name,
        opened=None if place.remote else place.open(),
        retry=Retry(source.retries if place.remote or source.retries is not None else 0),
        loop=source.loop,
        timeout_s=source.options.timeout_s,
        on_status=tell_status,
    )


def _has_room(sinks: Sequence[SinkWorker], under_way: deque[Batch], worker: SourceWorker) -> bool:
    """For one more frame of a file in every sink that takes it."""
    coming = [each.name for batch in under_way for each, _ in batch if not each.live]
    return all(sink.has_room(sum(map(sink.takes, coming))) for sink in sinks if sink.takes(worker.name))


def _tell(sinks: Sequence[SinkWorker], source: str, stats: StreamStats) -> None:
    for sink in sinks:
        sink.put_stats(source, stats)


def _frames_at_once(workers: Sequence[SourceWorker]) -> int | None:
    """How many frames are there at the same time; None: as many as anyone wants. Of a camera only the newest counts."""
    return len(workers) if all(worker.live for worker in workers) else None


def _detect(
    detector: Detector, mixer: Mixer, under_way: deque[Batch], stop: Stop, config: StreamConfig
) -> Iterator[tuple[Batch, list[Detections]]]:
    """Batches in order with their detections, as many under way at once as the detector has slots for.

    Detections are held back for the next frames only where these are there already.

    Args:
        under_way: where batches are put while they are.
    """

    def finished() -> Iterator[tuple[Batch, list[Detections]]]:
        while not detector.wait(POLL_S):
            left_s = stop.time_left_s()
            if left_s is not None and left_s < OUTPUTS_END_S:
                under_way.clear()
                return
        yield under_way.popleft(), detector.collect()

    left = config.max_frames if config.max_frames is not None else sys.maxsize
    most = 1 if config.latency else detector.batch
    detector.on_done = mixer.wake
    while True:
        batch = mixer.take(min(most, left), until=lambda: bool(under_way) and detector.wait()) if left else []
        left -= len(batch)
        if batch:
            try:
                detector.submit([frame.image_bgr for _, frame in batch])
            except ImageError:  # from a source of one's own; the frames before it are whole
                while under_way:
                    yield from finished()
                raise
            under_way.append(batch)
        elif not under_way:
            return
        if not batch or len(under_way) >= detector.slots:
            yield from finished()
