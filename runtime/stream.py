"""The whole runtime in one loop: source → capture thread → detector → sinks."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from ssd_edge.detections import Detections
from ssd_edge.errors import SinkError, SourceError
from ssd_edge.runtime.capture import Capture
from ssd_edge.runtime.detector import Detector, open_detector
from ssd_edge.runtime.overlay import draw
from ssd_edge.runtime.sinks import JsonLinesSink, Sink, WindowSink, save_sink
from ssd_edge.runtime.sources import TIMEOUT_S, Frame, open_source
from ssd_edge.runtime.stats import Meter, StreamStats


@dataclass(frozen=True)
class StreamConfig:
    """What to stream.

    Attributes:
        source: what `open_source` takes.
        model: what `open_detector` takes.
        show: open a window.
        save: annotated video, image or folder of images; see `save_sink`.
        jsonl: file of JSON lines, "-" for the standard output; see `JsonLinesSink`.
        score_threshold: detections below it appear nowhere. The card's own is meant for measuring mAP and too
            low to look at.
        threads: threads of one inference, None for the backend's choice.
        latency: detections come out before the next frame goes in, for the lowest age; else a GPU takes the next frame
            while it computes.
        timeout_s: see `open_source`.
        max_frames: end after so many frames, None for all.
    """

    source: str | int | Path
    model: Path
    show: bool = False
    save: Path | None = None
    jsonl: str | None = None
    score_threshold: float = 0.4
    threads: int | None = None
    latency: bool = False
    timeout_s: float = TIMEOUT_S
    max_frames: int | None = None


def run_stream(config: StreamConfig, *, extra_sinks: Sequence[Sink] = (), progress: bool = True) -> StreamStats:
    """Stream until the source ends, the window is closed, or SIGINT or SIGTERM comes.

    In all of these cases, and after an error, every output is completed. A second signal ends the process
    as it would have without us.

    Args:
        extra_sinks: sinks of your own, beside those of the config; closed at the end.
        progress: show a live line and a summary on stderr.

    Raises:
        ModelFileError, SourceError, SinkError: before the first frame where possible.
    """
    if config.save is not None and config.jsonl is not None and config.save.resolve() == Path(config.jsonl).resolve():
        raise SinkError(f"--save and --jsonl both name {config.save}, where one would overwrite the other; rename one")
    with ExitStack() as stack:
        detector = stack.enter_context(
            # Decoding, drawing and encoding need the cores too: on two busy ones, threads that sleep while they wait
            # gave twice the frames a second of threads that spin.
            open_detector(
                config.model,
                threads=config.threads,
                score_threshold=config.score_threshold,
                spin=False,
                overlap=not config.latency,
            )
        )
        class_names = detector.card.class_names
        source = open_source(config.source, timeout_s=config.timeout_s)
        capture = stack.enter_context(Capture(source))
        stack.enter_context(_on_stop_signal(capture.request_stop))
        sinks = [stack.enter_context(sink) for sink in extra_sinks]
        if config.show:
            sinks.append(stack.enter_context(WindowSink()))
        if config.save is not None:
            sinks.append(stack.enter_context(save_sink(config.save, source)))
        if config.jsonl is not None:
            sinks.append(stack.enter_context(JsonLinesSink(config.jsonl, source, class_names)))
        drawing = any(sink.needs_drawing for sink in sinks)
        meter = stack.enter_context(Meter(source.name, source.frame_count, show=progress))
        for frame, detections in _detect(detector, capture, live=source.live):
            age_ms = 1e3 * (time.monotonic() - frame.captured_at)
            meter.add(latency_ms=detector.timings.total_ms, age_ms=age_ms, dropped=capture.dropped)
            drawn = draw(frame.image_bgr, detections, class_names) if drawing else frame.image_bgr
            wanted = [sink.write(frame, detections, drawn) for sink in sinks]
            if not all(wanted) or meter.frames == config.max_frames:
                break
        return meter.stats()


def _detect(detector: Detector, capture: Capture, *, live: bool) -> Iterator[tuple[Frame, Detections]]:
    """Frames in order with their detections, as many under way at once as the detector has slots for.

    A live source that drops nothing has a detector that waits for it: there a frame is not held back for the next one.
    """
    under_way: deque[Frame] = deque()
    dropped = 0
    failure: SourceError | None = None
    try:
        for frame in capture:
            detector.submit([frame.image_bgr])
            under_way.append(frame)
            keeps_up = live and capture.dropped == dropped
            dropped = capture.dropped
            while len(under_way) >= (1 if keeps_up else detector.slots):
                (detections,) = detector.collect()
                yield under_way.popleft(), detections
    except SourceError as error:
        failure = error  # frames that were read before it come before it
    while under_way:
        (detections,) = detector.collect()
        yield under_way.popleft(), detections
    if failure is not None:
        raise failure


@contextmanager
def _on_stop_signal(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` at the first SIGINT or SIGTERM, and leave the second to whoever had it before."""
    if threading.current_thread() is not threading.main_thread():  # Python handles signals there alone
        yield
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}

    def handle(number: int, _: FrameType | None) -> None:
        stop()
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in signals:
        signal.signal(number, handle)
    try:
        yield
    finally:
        restore()
