"""`GpuDetector`: frames are uploaded once, a short list of detections comes back, and nothing waits in between.

    frame ─▶ pinned memory ─▶ GPU ─▶ preprocess kernel ─▶ engine ─▶ NMS kernels ─▶ pinned memory ─▶ `Detections`
            └─── copy stream ──┘    └─ one per frame ─┘ └─────── one CUDA graph ───────┘
                                   └──────────────── the engine's stream ──────────────┘

An engine is not re-entrant, so batches compute one after the other on its stream. Uploads are the large copies: they
have their own stream and memory, so that the next batch is uploaded while this one computes. With one slot nothing can
overlap, and uploads share the engine's stream.

Preprocess kernels write the engine's input, and everything after them works at fixed addresses. That part is one CUDA
graph per batch size and slot; it serves frames of any size, at any address.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_edge.card import ModelCard
from ssd_edge.detections import Detections
from ssd_edge.errors import SsdEdgeError, UsageError
from ssd_edge.runtime.backends.base import Detector, Timings, check_frame
from ssd_edge.runtime.backends.gpu_engine import CaptureRefused, Engine
from ssd_edge.runtime.backends.gpu_slot import Frame, Placed, Slot
from ssd_edge.runtime.cuda.base import Graph, capturing
from ssd_edge.runtime.cuda.device_frames import DeviceFrame, device_frame, is_device_frame
from ssd_edge.runtime.cuda.errors import CudaError, CudaFatalError
from ssd_edge.runtime.cuda.kernels import KERNEL_SOURCE, KERNELS
from ssd_edge.runtime.cuda.nms import Nms
from ssd_edge.runtime.cuda.preprocess import Plane, preprocess_bgr, preprocess_yuv
from ssd_edge.runtime.pixels import GpuPicture

logger = logging.getLogger(__name__)

FAILED_CAPTURES = 3  # in a row, after which captures are given up; one may fail because of another thread's work
FRAMES_VARIABLE = "SSD_EDGE_FRAMES"
FRAMES_MAPPED = {"": True, "mapped": True, "copied": False}  # by its value


class GpuDetector(Detector):
    """A `Detector` whose every step runs on the GPU. Use one detector per thread.

    Frames are `Pixels`: uint8 [H, W, 3] BGR, YUV planes, which take half the memory to upload in 4:2:0, or pictures on
    the GPU. On the GPU BGR arrays, `Nv12Frame` and PyAV's frames will do too (`device_frames`). Frames there are read
    where they lie and must not change until their detections are collected.

    Each batch size is captured as a CUDA graph when it occurs for the second time; the first batch runs step by step.
    If captures keep failing, all batches run step by step.

    `collect` waits without spinning, which leaves the processor free and costs some tens of microseconds per batch.

    After an error no batch is under way. After a `CudaFatalError` this process cannot use the GPU any more.

    `timings` are wall-clock times: `preprocess_ms` of copying frames into pinned memory; `infer_ms` from there until
    detections are back: upload, kernels, network, and earlier batches; `nms_ms` of making `Detections`.

    Args:
        engine: closed by the detector, and its GPU as well.
        slots: batches that may be under way at once: 2 overlap, 1 gives the lowest latency.
        mapped: whether a GPU that shares the processor's memory, such as a Jetson's, reads frames in mapped pinned
            memory, which it does not cache, or in a copy in device memory (docs/gpu.md compares the traffic). None: as
            the environment variable `SSD_EDGE_FRAMES` says, `mapped` (default) or `copied`. Other GPUs always copy.

    Attributes:
        engine: the network.
        captures: whether batch sizes are captured; set to False, all batches run step by step.

    Raises:
        UsageError: `score_threshold` or `SSD_EDGE_FRAMES` is out of range.
        CudaMemoryError: not enough memory on the GPU.
    """

    def __init__(
        self,
        engine: Engine,
        card: ModelCard,
        *,
        score_threshold: float | None = None,
        slots: int = 2,
        mapped: bool | None = None,
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
            mapped = (_maps_frames() if mapped is None else mapped) and cuda.gpu.integrated
            self._slots = [self._open.enter_context(Slot(cuda, self._nms.output_bytes, mapped)) for _ in range(slots)]
        except BaseException:
            self._open.close()
            raise
        self.slots, self.batch = slots, engine.batch[1]
        self.captures = cuda.has_graphs
        self._failed_captures = 0  # in a row
        self._met: set[int] = set()  # batch sizes that have run
        self._graphs_threshold = self.score_threshold  # that graphs were captured with
        self._free = deque(self._slots)
        self._under_way: deque[tuple[Slot, _Batch]] = deque()  # in the order of the engine's stream
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
        checked = self._checked(frames)
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

    @property
    def captured(self) -> list[set[int]]:
        """The batch sizes that each slot has a graph of."""
        return [set(slot.graphs) for slot in self._slots]

    def work_of(self, frames: Sequence[Any]) -> Callable[[], None]:
        """The GPU's work for frames, to be timed: each call puts it on the streams and returns at once.

        No batch may be under way. It is good until other frames in the processor's memory are submitted.
        """
        slot = self._slots[0]
        return partial(self._enqueue, slot, slot.place(self._checked(frames)))

    def _checked(self, frames: Sequence[Any]) -> list[Frame]:
        checked: list[Frame] = []
        for index, frame in enumerate(frames):
            if isinstance(frame, GpuPicture):
                taken = device_frame(frame.surface, self.engine.cuda, self.engine.stream)
                checked.append(replace(taken, owner=(frame, taken.owner)))
            elif is_device_frame(frame):
                checked.append(device_frame(frame, self.engine.cuda, self.engine.stream))
            else:
                check_frame(index, frame)
                checked.append(frame)
        return checked

    def _start(self, batch: _Batch, frames: Sequence[Frame]) -> None:
        """Start frames, no more than the engine takes, in a free slot."""
        slot = self._free.popleft()
        self._under_way.append((slot, batch))
        batch.parts += 1
        begin = time.perf_counter()
        placed = slot.place(frames)
        batch.staging_s += time.perf_counter() - begin
        self._enqueue(slot, placed)

    def _enqueue(self, slot: Slot, placed: Placed) -> None:
        """Put everything from the frames to the results on the streams."""
        stream = self.engine.stream
        if placed.upload_bytes:
            slot.upload(self._copies, placed.upload_bytes)
            if self._copies is not stream:
                self._copies.record(slot.uploaded)
                stream.wait(slot.uploaded)
        for index, frame in enumerate(placed.frames):
            self._preprocess(index, frame)
        batch = len(placed.frames)
        graph = self._graph(slot, batch) if batch in self._met else None
        if graph is None:
            self._enqueue_network(slot, batch)
            self._met.add(batch)
        else:
            graph.launch(stream)
        stream.record(slot.done)

    def _preprocess(self, index: int, frame: DeviceFrame) -> None:
        """Write one of the engine's images."""
        stream, card = self.engine.stream, self.card
        image = self.engine.images + index * 3 * card.height * card.width
        pixels, frame_hw, size_hw = (frame.address, frame.pitch), (frame.height, frame.width), (card.height, card.width)
        if frame.chroma is None:
            preprocess_bgr(stream, self._kernels, *pixels, frame_hw, image, size_hw)
        else:
            chroma, colours = frame.chroma
            preprocess_yuv(stream, self._kernels, Plane(*pixels, *frame_hw), chroma, image, size_hw, colours=colours)

    def _enqueue_network(self, slot: Slot, batch: int) -> None:
        """Put everything from the engine's images to the results on its stream: the content of a graph."""
        engine, stream = self.engine, self.engine.stream
        engine.enqueue(max(batch, engine.batch[0]))
        self._nms.launch(
            stream,
            engine.boxes,
            engine.scores,
            score_threshold=self.score_threshold,
            iou_threshold=self.card.nms_iou,
            iou_epsilon=self.card.iou_epsilon,
            clip_first=self.card.clip_before_nms,
            batch=batch,
        )
        stream.copy(slot.results.address, self._nms.output, self._nms.output_bytes)

    def _graph(self, slot: Slot, batch: int) -> Graph | None:
        """A slot's graph for a batch size, captured where there is none; None: this batch runs step by step.

        TensorRT and PyTorch must have run a batch size once before it can be captured.
        """
        if self.score_threshold != self._graphs_threshold:
            self._forget_graphs()
            self._graphs_threshold = self.score_threshold
        if not self.captures:
            return None
        if batch not in slot.graphs:
            self._capture(slot, batch)
        return slot.graphs.get(batch)

    def _capture(self, slot: Slot, batch: int) -> None:
        """Make a graph. If that fails, try again when the batch size occurs next, or give up captures altogether."""
        try:
            with capturing:
                slot.graphs[batch] = self.engine.capture(partial(self._enqueue_network, slot, batch))
            self._failed_captures = 0
        except CudaFatalError:
            raise
        except SsdEdgeError as error:
            self._failed_captures += 1
            if self._failed_captures < FAILED_CAPTURES and not isinstance(error, CaptureRefused):
                logger.debug("a CUDA graph was not captured: %s", error)
                return
            logger.warning("the detector runs without a CUDA graph: %s", error)
            self.captures = False
            self._forget_graphs()

    def _forget_graphs(self) -> None:
        self.engine.stream.synchronize()  # one may be running
        for slot in self._slots:
            slot.forget_graphs()

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


def _maps_frames() -> bool:
    """What the environment says."""
    value = os.environ.get(FRAMES_VARIABLE, "")
    if value not in FRAMES_MAPPED:
        raise UsageError(f"{FRAMES_VARIABLE}={value}: expected mapped or copied, or nothing")
    return FRAMES_MAPPED[value]
