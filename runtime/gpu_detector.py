"""`GpuDetector`: frames go up to the GPU, a short list of detections comes down, and nothing waits in between.

    frame ─▶ pinned memory ─▶ GPU ─▶ preprocess kernel ─▶ engine ─▶ NMS kernels ─▶ pinned memory ─▶ `Detections`
            └─── copy stream ───┘ └─────── the engine's stream, captured as one CUDA graph ─────┘

An engine is not re-entrant, so batches compute one after the other on its stream. Uploads are the large copies: they
have a stream and memory of their own, so that the next batch goes up while this one computes. What comes down is a few
kilobytes and stays in the graph. With one slot nothing can overlap, and the upload is in the graph too. A GPU that
shares the processor's memory reads frames where the processor put them: nothing is uploaded.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssd_edge.card import ModelCard
from ssd_edge.detections import Detections
from ssd_edge.errors import SsdEdgeError
from ssd_edge.runtime.cuda import Cuda, CudaError, CudaFatalError, Graph, Resource, Stream
from ssd_edge.runtime.detector import Detector, Timings, check_frame
from ssd_edge.runtime.device_frames import Chroma, DeviceFrame, device_frame, is_device_frame
from ssd_edge.runtime.gpu_engine import CaptureRefused, Engine, capturing
from ssd_edge.runtime.kernels import KERNEL_SOURCE, KERNELS, Nms, preprocess_bgr, preprocess_nv12

_log = logging.getLogger(__name__)

Frame = NDArray[np.uint8] | DeviceFrame
PLANS = 8  # that a slot keeps graphs of
ALIGNMENT = 256  # bytes, between the starts of frames in one piece of memory
FAILED_CAPTURES = 3  # in a row, after which there are no more: one may fail by what another thread does meanwhile


class GpuDetector(Detector):
    """A `Detector` whose every step runs on the GPU. One detector is for one thread; other threads have their own.

    Frames are uint8 [H, W, 3] BGR: arrays of the processor's memory, or of the GPU's (`device_frames`); or `Nv12Frame`
    there. What is on the GPU is read where it lies and must stay as it is until its detections are collected.

    A batch whose frames lie where those of an earlier one lay, as a camera's do, is captured as a CUDA graph when it is
    met for the second time; others run as they come. Where captures keep failing, all do.

    `collect` waits without spinning, which leaves the processor free and costs some tens of microseconds a batch.

    After an error nothing is under way. One that is `CudaFatalError` ends all use of the GPU by this process.

    `timings` are by the clock on the wall: `preprocess_ms` of putting frames into pinned memory; `infer_ms` from there
    until detections are back: upload, kernels, network, and what was submitted before; `nms_ms` of making `Detections`.

    Args:
        engine: which the detector closes, and its GPU.
        slots: batches that may be under way at once: 2 overlap, 1 gives the lowest age of a frame.

    Attributes:
        engine: the network.
    """

    def __init__(
        self, engine: Engine, card: ModelCard, *, score_threshold: float | None = None, slots: int = 2
    ) -> None:
        cuda = engine.cuda
        self._open = ExitStack()
        self._open.push(cuda)
        self._open.push(engine)
        try:
            super().__init__(card, score_threshold=score_threshold)
            self.engine = engine
            self._kernels = cuda.module(KERNEL_SOURCE, KERNELS)
            sizes = (engine.batch[1], engine.anchors, engine.classes, card.candidates, card.detections)
            self._nms = self._open.enter_context(Nms(cuda, self._kernels, *sizes))
            self._copies = engine.stream if slots == 1 else self._open.enter_context(cuda.stream())
            self._slots = [self._open.enter_context(_Slot(cuda, self._nms.output_bytes)) for _ in range(slots)]
        except BaseException:
            self._open.close()
            raise
        self.slots, self.batch = slots, engine.batch[1]
        self._captures = cuda.has_graphs
        self._failed_captures = 0  # in a row
        self._free = deque(self._slots)
        self._under_way: deque[tuple[_Slot, _Batch]] = deque()  # in the order of the engine's stream
        self._batches: deque[_Batch] = deque()  # in the order of `submit`

    def __call__(self, frames: Sequence[Any]) -> list[Detections]:
        self._check_open()
        if self._batches:
            raise SsdEdgeError(
                f"batches that were submitted and not collected: {len(self._batches)}; collect them before the "
                "detector is called"
            )
        self.submit(frames)
        return self.collect()

    def submit(self, frames: Sequence[Any]) -> None:
        self._check_open()
        checked = [self._checked(index, frame) for index, frame in enumerate(frames)]
        batch = _Batch(time.perf_counter())
        self._batches.append(batch)
        largest = self.engine.batch[1]
        with self._all_or_nothing():
            for start in range(0, len(checked), largest):
                if not self._free:
                    self._finish()
                self._start(batch, checked[start : start + largest])

    def collect(self) -> list[Detections]:
        self._check_open()
        if not self._batches:
            raise SsdEdgeError("there is nothing to collect; submit frames first")
        batch = self._batches[0]
        with self._all_or_nothing():
            while batch.parts:
                self._finish()
        self._batches.popleft()
        self.timings = batch.timings()
        return batch.detections

    def infer(self, images_rgb: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        self._check_open()
        return self.engine.infer(images_rgb)

    def _checked(self, index: int, frame: Any) -> Frame:
        if is_device_frame(frame):
            return device_frame(frame, self.engine.cuda, self.engine.stream)
        check_frame(index, frame)
        image: NDArray[np.uint8] = frame
        return image

    def _start(self, batch: _Batch, frames: Sequence[Frame]) -> None:
        """Put frames, no more than the engine takes, on their way through a free slot."""
        slot = self._free.popleft()
        self._under_way.append((slot, batch))
        batch.parts += 1
        begin = time.perf_counter()
        plan = slot.place(frames)
        batch.staging_s += time.perf_counter() - begin
        stream = self.engine.stream
        if self._copies is not stream and slot.upload_size:
            slot.upload(self._copies)
            self._copies.record(slot.uploaded)
            stream.wait(slot.uploaded)
        graph = self._graph(slot, plan)
        if graph is None:
            self._enqueue(slot, plan)
        else:
            graph.launch(stream)
        stream.record(slot.done)

    def _graph(self, slot: _Slot, plan: Plan) -> Graph | None:
        """The graph of a plan that a slot has met before; None: it is to run as it comes."""
        met = plan in slot.graphs
        if met and slot.graphs[plan] is None and self._captures:
            try:
                with capturing:
                    slot.graphs[plan] = self.engine.capture(lambda: self._enqueue(slot, plan))
                self._failed_captures = 0
            except CudaFatalError:
                raise
            except SsdEdgeError as error:
                self._capture_failed(error)
        if self._captures:
            slot.remember(plan)
        return slot.graphs.get(plan)

    def _capture_failed(self, error: SsdEdgeError) -> None:
        """Go on without a graph: until the plan is met again, or for good."""
        self._failed_captures += 1
        if self._failed_captures < FAILED_CAPTURES and not isinstance(error, CaptureRefused):
            _log.debug("a CUDA graph was not captured: %s", error)
            return
        _log.warning("the detector runs without a CUDA graph: %s", error)
        self._captures = False
        self.engine.stream.synchronize()
        for each in self._slots:
            each.forget_plans()

    def _enqueue(self, slot: _Slot, plan: Plan) -> None:
        """Put everything from the frames to the results on the stream: what a graph holds."""
        engine, stream, card = self.engine, self.engine.stream, self.card
        if self._copies is stream and slot.upload_size:
            slot.upload(stream)
        for index, source in enumerate(plan):
            image = engine.images + index * 3 * card.height * card.width
            frame_hw, size_hw = (source.height, source.width), (card.height, card.width)
            pixels = source.address, source.pitch
            if source.chroma is None:
                preprocess_bgr(stream, self._kernels, *pixels, frame_hw, image, size_hw)
            else:
                chroma, chroma_pitch, colours = source.chroma
                planes = *pixels, chroma, chroma_pitch
                preprocess_nv12(stream, self._kernels, *planes, frame_hw, image, size_hw, colours=colours)
        engine.enqueue(max(len(plan), engine.batch[0]))
        thresholds = {"score_threshold": self.score_threshold, "iou_threshold": card.nms_iou}
        self._nms.launch(stream, engine.boxes, engine.scores, **thresholds, batch=len(plan))
        stream.copy(slot.results.address, self._nms.output, self._nms.output_bytes)

    def _finish(self) -> None:
        """Wait for the earliest part under way."""
        slot, batch = self._under_way[0]
        slot.done.synchronize()
        begin = time.perf_counter()
        batch.detections += self._nms.read(slot.results.array, slot.sizes_hw)
        batch.reading_s += time.perf_counter() - begin
        batch.parts -= 1
        slot.frames = ()
        self._under_way.popleft()
        self._free.append(slot)

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """An error leaves nothing under way."""
        try:
            yield
        except BaseException:
            self._batches.clear()
            self._under_way.clear()
            self._free = deque(self._slots)
            self._wait()
            raise

    def _wait(self) -> None:
        """Until the GPU is done with our memory, which is about to be used for something else."""
        with suppress(CudaError):  # the first error is the cause
            self._copies.synchronize()
            self.engine.stream.synchronize()

    def _release(self) -> None:
        self._wait()
        self._open.close()


class Source(NamedTuple):
    """Where the GPU finds a frame, its rows `pitch` bytes apart: BGR, or with chroma the luma of NV12."""

    address: int
    pitch: int
    height: int
    width: int
    chroma: Chroma | None = None


Plan = tuple[Source, ...]  # a batch, as a graph sees it


@dataclass
class _Batch:
    """What was submitted at once: its parts that are under way, and the detections of those that are done."""

    begun_s: float
    parts: int = 0
    staging_s: float = 0.0
    reading_s: float = 0.0
    detections: list[Detections] = field(default_factory=list)

    def timings(self) -> Timings:
        """At the moment when it is collected."""
        between_s = time.perf_counter() - self.begun_s - self.staging_s - self.reading_s
        return Timings(1e3 * self.staging_s, 1e3 * between_s, 1e3 * self.reading_s)


class _Slot(Resource):
    """What one part of a batch has to itself while it is under way: memory, events, and the graphs that use them.

    Attributes:
        frames: held until the GPU has read them.
        sizes_hw: of the frames.
        upload_size: bytes of frames to upload.
        results: pinned memory for what comes down.
        uploaded, done: events.
        graphs: by plan, the latest last; None: met, and not captured.
    """

    def __init__(self, cuda: Cuda, results_size: int) -> None:
        self._cuda = cuda
        self._open, self._staged = ExitStack(), ExitStack()
        self._capacity = 0  # bytes of frames
        self.frames: Sequence[Frame] = ()
        self.sizes_hw: list[tuple[int, int]] = []
        self.upload_size = 0
        self.graphs: OrderedDict[Plan, Graph | None] = OrderedDict()
        self.results = self._open.enter_context(cuda.host_memory(results_size))
        self.uploaded = self._open.enter_context(cuda.event())
        self.done = self._open.enter_context(cuda.event())

    def place(self, frames: Sequence[Frame]) -> Plan:
        """Put frames of the processor's memory into pinned memory; where the GPU will find each."""
        self._reserve(sum(_aligned(frame.nbytes) for frame in frames if isinstance(frame, np.ndarray)))
        self.frames = frames
        plan, end = [], 0
        for frame in frames:
            if isinstance(frame, np.ndarray):
                height, width = frame.shape[:2]
                np.copyto(self._staging.array[end : end + frame.nbytes].reshape(frame.shape), frame)
                plan.append(Source(self._frames_address + end, 3 * width, height, width))
                end += _aligned(frame.nbytes)
            else:
                plan.append(Source(frame.address, frame.pitch, frame.height, frame.width, frame.chroma))
        self.sizes_hw = [(source.height, source.width) for source in plan]
        self.upload_size = 0 if self._cuda.gpu.integrated else end
        return tuple(plan)

    def upload(self, stream: Stream) -> None:
        """Put the copy of the frames to the GPU on a stream."""
        stream.copy(self._frames_address, self._staging.address, self.upload_size)

    def remember(self, plan: Plan) -> None:
        """As the latest of a bounded number of plans."""
        self.graphs[plan] = self.graphs.pop(plan, None)
        if len(self.graphs) > PLANS:
            self._forget(next(iter(self.graphs)))

    def forget_plans(self) -> None:
        """Free all graphs; none may be running."""
        for plan in list(self.graphs):
            self._forget(plan)

    def close(self) -> None:
        self.forget_plans()
        self._staged.close()
        self._open.close()

    def _forget(self, plan: Plan) -> None:
        graph = self.graphs.pop(plan)
        if graph is not None:
            graph.close()

    def _reserve(self, size: int) -> None:
        """Memory for so many bytes of frames. Graphs know addresses, so they go with the memory that was too small."""
        if size <= self._capacity:
            return
        self.forget_plans()
        self._staged.close()
        self._capacity = 0  # until all of it is there
        integrated = self._cuda.gpu.integrated
        self._staging = self._staged.enter_context(self._cuda.host_memory(size, mapped=integrated))
        on_gpu = self._staging if integrated else self._staged.enter_context(self._cuda.memory(size))
        self._frames_address = on_gpu.address
        self._capacity = size


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
