"""The whole runtime in one loop: sources → batches → detector → sinks, each source and sink in threads of its own."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import chain
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from ssd_edge.cpus import usable_cpus
from ssd_edge.detections import Detections
from ssd_edge.errors import UsageError
from ssd_edge.runtime.backends.base import Detector
from ssd_edge.runtime.cuda.errors import CudaFatalError
from ssd_edge.runtime.detector import open_detector, runs_on_gpu
from ssd_edge.runtime.overlay import draw_result
from ssd_edge.runtime.results import Result
from ssd_edge.runtime.sinks.base import Sink
from ssd_edge.runtime.sinks.worker import Picture, SinkWorker, close_sinks
from ssd_edge.runtime.sources.base import Frame, Place
from ssd_edge.runtime.sources.find import find_source
from ssd_edge.runtime.sources.worker import Retry, SourceWorker
from ssd_edge.runtime.stats import StreamStats
from ssd_edge.runtime.stream.batcher import Batch, Batcher
from ssd_edge.runtime.stream.config import SourceConfig, StreamConfig
from ssd_edge.runtime.stream.inference import Inference
from ssd_edge.runtime.stream.memory import memory_kept_small
from ssd_edge.runtime.stream.meter import Meter
from ssd_edge.runtime.stream.open_sinks import OpenedSink, open_sinks
from ssd_edge.runtime.stream.option_use import warn_of_useless_options
from ssd_edge.runtime.stream.stop import END_S, Stop, on_stop_signal
from ssd_edge.runtime.tracking.analytics import Understanding, UnderstandingOptions

FATAL_END_S = 1.0  # until the end when the GPU is lost
READERS_END_S = 1.0  # for all sources' threads; one that waits for a dead server is left to the end of the process


def run_stream(config: StreamConfig, *, extra_sinks: Sequence[Sink] = (), progress: bool = True) -> StreamStats:
    """`Stream.run` for callers that need not know what hangs afterwards."""
    return Stream(config, extra_sinks=extra_sinks, progress=progress).run()


class Stream:
    """A stream that can be run once.

    Args:
        extra_sinks: sinks of your own, next to those of the config; closed at the end.
        progress: show a live line and a summary on stderr.
    """

    def __init__(self, config: StreamConfig, *, extra_sinks: Sequence[Sink] = (), progress: bool = True) -> None:
        self.config = config
        self._extra_sinks, self._progress = extra_sinks, progress
        self._stop = Stop()
        self._changed = threading.Condition()  # a source has a frame, or has ended; or a sink has room
        self._workers: list[SourceWorker] = []
        self._sinks: list[SinkWorker] = []
        self._lanes: dict[str, _Lane] = {}  # by the name of the source
        self._under_way: deque[Batch] = deque()
        self._hung_workers: list[SourceWorker] = []
        self._hung_sinks: list[SinkWorker] = []

    @property
    def hanging(self) -> list[str]:
        """After `run`, sources and sinks that still hang in a thread, as in a driver: a normal exit could hang too."""
        sources = [worker.name for worker in self._hung_workers if not worker.close(0.0)]
        return sources + [sink.name for sink in self._hung_sinks if not sink.join(0.0)]

    def run(self) -> StreamStats:
        """Stream until all sources have ended, a window is closed, or SIGINT or SIGTERM comes.

        In all of these cases, and after an error, every output is completed; after a signal or an error within `END_S`.
        A second signal ends the process at once. A source or sink that fails is named and left out, and the others go
        on.

        Raises:
            ModelFileError, SourceError, SinkError, UsageError: before the first frame where possible; at the end, what
                made a source or a sink fail.
            CudaFatalError: the GPU is lost; only a new process can go on.
        """
        _check_sinks(self._extra_sinks)
        with ExitStack() as stack:
            stack.enter_context(on_stop_signal(self._stop.request))
            stack.callback(self._close_sources)
            self._open_sources()
            detector = stack.enter_context(self._open_detector())
            stack.push(self._finish)  # after the detector, which may hang when it is closed: outputs come first
            self._open_lanes(detector.card.class_names)
            batcher = Batcher(self._workers, self._changed, self._has_room, lambda: self._stop.requested)
            self._open_sinks(detector, batcher)
            stack.enter_context(memory_kept_small())
            for worker in self._workers:
                worker.start()
            meter = stack.enter_context(self._meter())
            stats = self._stream(detector, batcher, meter)
        for error in (*(sink.error for sink in self._sinks), *(worker.error for worker in self._workers)):
            if error is not None:
                raise error
        return stats

    def _open_sources(self) -> None:
        sources = self.config.sources
        # Decoders and the detector use the same threads' worth of processors: whichever is behind gets the most of it.
        threads = max(1, (self.config.threads or usable_cpus()) // max(1, len(sources)))
        on_gpu = runs_on_gpu(self.config.model)
        places = [_place_of(source, decoder_threads=threads, gpu=on_gpu) for source in sources]
        warn_of_useless_options(sources, places)
        for source, place in zip(sources, places, strict=True):
            self._workers.append(self._open_source(source, place))

    def _open_source(self, source: SourceConfig, place: Place) -> SourceWorker:
        """The worker of a source, under a name that no other has. What is on this machine is opened at once.

        Raises:
            SourceError: there is no such thing.
        """
        wanted, taken = source.name or place.name, {worker.name for worker in self._workers}
        names = (wanted, *(f"{wanted} ({number})" for number in range(2, 1000)))
        name = next(name for name in names if name not in taken)
        return SourceWorker(
            place,
            self._changed,
            name=name,
            opened=None if place.remote else place.open(),
            retry=Retry(source.retries if place.remote or source.retries is not None else 0),
            loop=source.loop,
            max_fps=source.max_fps,
            timeout_s=source.options.timeout_s,
            on_status=partial(self._tell_status, name),
        )

    def _open_detector(self) -> Detector:
        config = self.config
        # Of a camera only the newest frame counts; of files, as many as anyone wants are there at once. A camera next
        # to a file is not to wait for several frames of it.
        live = [worker.live for worker in self._workers]
        at_once = len(live) if all(live) else config.threads or usable_cpus() if any(live) else None
        return open_detector(
            config.model,
            threads=config.threads,
            score_threshold=config.score_threshold,
            # Decoding, drawing and encoding need the cores too: on two busy ones, threads that sleep while they wait
            # gave twice the frames a second of threads that spin.
            spin=False,
            overlap=not config.latency,
            parallel=1 if config.latency else at_once,
        )

    def _open_lanes(self, class_names: tuple[str, ...]) -> None:
        for worker, source in zip(self._workers, self.config.sources, strict=True):
            self._lanes[worker.name] = _Lane(worker, source.understanding, class_names)

    def _open_sinks(self, detector: Detector, batcher: Batcher) -> None:
        extra = (OpenedSink(sink, type(sink).__name__) for sink in self._extra_sinks)
        for sink, name, source in chain(extra, open_sinks(self.config, self._workers, self._draw)):
            worker = SinkWorker(
                sink,
                name,
                source=source,
                at_once=detector.slots * detector.batch,
                on_room=batcher.wake,
                on_end=self._stop.request,
            )
            self._sinks.append(worker)

    def _meter(self) -> Meter:
        as_log = self.config.log_format == "json"
        on_stats = self._tell_stats if any(sink.wants_stats for sink in self._sinks) else None
        return Meter(self._workers, show=self._progress, as_log=as_log, on_stats=on_stats)

    def _stream(self, detector: Detector, batcher: Batcher, meter: Meter) -> StreamStats:
        config = self.config
        inference = Inference(
            detector, batcher, self._under_way, self._stop, latency=config.latency, max_frames=config.max_frames
        )
        for batch, found in inference.batches():
            now = time.monotonic()
            for (worker, frame), detections in zip(batch, found, strict=True):
                age_ms = 1e3 * (now - frame.captured_at)
                result = self._lanes[worker.name].result(frame, detections, age_ms)
                meter.add(worker.name, latency_ms=detector.timings.total_ms, age_ms=age_ms)
                self._hand_on(result, keep=not worker.live)
        return meter.stats()

    def _hand_on(self, result: Result, *, keep: bool) -> None:
        picture = Picture(result, self._draw)
        for sink in self._sinks:
            if sink.takes(result.source):
                sink.put(result, picture, keep=keep)

    def _draw(self, result: Result) -> NDArray[np.uint8]:
        return self._lanes[result.source].draw(result)

    def _has_room(self, worker: SourceWorker) -> bool:
        """For one more frame of a file in every sink that takes it."""
        coming = [each.name for batch in self._under_way for each, _ in batch if not each.live]
        return all(sink.has_room(sum(map(sink.takes, coming))) for sink in self._sinks if sink.takes(worker.name))

    def _tell_status(self, source: str, status: str, detail: str) -> None:
        for sink in self._sinks:
            sink.put_status(source, status, detail)

    def _tell_stats(self, source: str, stats: StreamStats) -> None:
        for sink in self._sinks:
            sink.put_stats(source, stats)

    def _finish(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._stop.request(FATAL_END_S if isinstance(error, CudaFatalError) else END_S)
        for worker in self._workers:
            worker.request_stop()
        close_sinks(self._sinks, self._stop.time_left_s)
        ends_at = time.monotonic() + READERS_END_S
        for worker in self._workers:
            if not worker.close(max(0.0, ends_at - time.monotonic())):
                self._hung_workers.append(worker)
        self._hung_sinks = [sink for sink in self._sinks if not sink.join(0.0)]

    def _close_sources(self) -> None:
        """Where `_finish` is not reached."""
        for worker in self._workers:
            worker.close(0.0)


class _Lane:
    """One source, and what is understood of its frames."""

    def __init__(
        self, worker: SourceWorker, options: UnderstandingOptions | None, class_names: tuple[str, ...]
    ) -> None:
        self._worker = worker
        self._class_names = class_names
        self._options = options or UnderstandingOptions()
        self._understanding = Understanding(class_names, options) if options else None

    def result(self, frame: Frame, detections: Detections, age_ms: float) -> Result:
        if self._understanding is None:
            return Result(self._worker.name, frame, detections, self._class_names, age_ms)
        return self._understanding.apply(self._worker.name, frame, detections, age_ms)

    def draw(self, result: Result) -> NDArray[np.uint8]:
        return draw_result(result, self._options.zones, self._options.lines)


def _place_of(source: SourceConfig, *, decoder_threads: int, gpu: bool) -> Place:
    if isinstance(source.uri, Place):
        return source.uri
    return find_source(source.uri, replace(source.options, decoder_threads=decoder_threads, gpu=gpu))


def _check_sinks(sinks: Sequence[Sink]) -> None:
    for sink in sinks:
        if not isinstance(sink, Sink):
            raise UsageError(f"{type(sink).__name__} is no sink; derive it from ssd_edge.runtime.sinks.base.Sink")
