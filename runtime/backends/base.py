"""`Detector`: what every back-end is to its callers, and what they share."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ssd_edge.card import ModelCard
from ssd_edge.detections import Detections
from ssd_edge.errors import SsdEdgeError, UsageError
from ssd_edge.images import ImageError
from ssd_edge.runtime.nms import nms
from ssd_edge.runtime.pixels import GpuPicture, Pixels, YuvPlanes, in_memory, size_hw_of
from ssd_edge.runtime.preprocess import preprocess

Self = TypeVar("Self", bound="Detector")


@dataclass(frozen=True)
class Timings:
    """Milliseconds that each step of one call took, for all of its frames together."""

    preprocess_ms: float = 0.0
    infer_ms: float = 0.0
    nms_ms: float = 0.0

    @property
    def total_ms(self) -> float:
        return self.preprocess_ms + self.infer_ms + self.nms_ms


class Prepared(NamedTuple):
    """A batch of frames at the network's size."""

    images_rgb: NDArray[np.uint8]  # [batch, height, width, 3]
    sizes_hw: list[tuple[int, int]]  # of the frames
    preprocess_ms: float


class Detector(ABC):
    """Turns frames into detections; what every backend shares, so that backends differ in `infer` alone.

    A context manager. Not to be called from two threads at once: it reuses its input buffer.

    Attributes:
        card: the model's `ModelCard`.
        score_threshold: detections need a score above it; the card's unless another was asked for.
        timings: `Timings` of the last call, or of what was last collected.
        slots: batches under way at once that make it faster: submit so many before the first is collected.
        batch: frames that a batch has at most where many are there at once.
        on_done: called without arguments, from any thread, when a batch is done, for which one can `wait`.
    """

    slots = 1
    batch = 1

    def __init__(self, card: ModelCard, *, score_threshold: float | None = None) -> None:
        if score_threshold is None:
            score_threshold = card.score_threshold
        if not 0 <= score_threshold < 1:
            raise UsageError(f"score threshold {score_threshold}; expected a number from 0 to below 1")
        self.card = card
        self.score_threshold = score_threshold
        self.timings = Timings()
        self.on_done: Callable[[], None] = _nobody
        self._images = np.empty((0, card.height, card.width, 3), np.uint8)  # grows to the largest batch
        self._submitted: deque[tuple[list[Detections], Timings]] = deque()
        self._closed = False

    @abstractmethod
    def infer(self, images_rgb: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Run the network alone; calling the detector also resizes frames and suppresses overlapping boxes.

        Args:
            images_rgb: uint8 [batch, height, width, 3] of the card's size, as `preprocess` gives.

        Returns:
            boxes float32 [batch, anchors, 4], x0 y0 x1 y1 as fractions of the image, and
            scores float32 [batch, anchors, classes].
        """

    @abstractmethod
    def _release(self) -> None:
        """Let go of the model; called once."""

    def __call__(self, frames: Sequence[Pixels]) -> list[Detections]:
        """Detect in a batch of frames, which may differ in size.

        Args:
            frames: each uint8 [H, W, 3] BGR, or the `pixels` of a stream's frame.

        Returns:
            One `Detections` a frame, boxes in pixels of that frame and within it.

        Raises:
            ImageError: a frame is not uint8 [H, W, 3] or has no pixels.
            SsdEdgeError: the detector is closed.
        """
        self._check_open()
        if len(self._images) < len(frames):
            self._images = np.empty((len(frames), *self._images.shape[1:]), np.uint8)
        detections, self.timings = self._detect(self._prepare(frames, self._images))
        return detections

    def submit(self, frames: Sequence[Pixels]) -> None:
        """Begin to detect in a batch; `collect` gives what a call with the same frames would have.

        With several `slots` it returns while the work goes on, else when it is done. The frames must not change until
        they are collected.

        Raises:
            As a call does.
        """
        self._submitted.append((self(frames), self.timings))

    def wait(self, timeout_s: float = 0.0) -> bool:
        """Wait for the earliest batch; whether it is done, or nothing tells when it will be: it is time to collect."""
        return True

    def collect(self) -> list[Detections]:
        """Detections of the earliest batch that was submitted and not collected yet; waits for them.

        Raises:
            SsdEdgeError: there is none, or the detector is closed.
        """
        self._check_open()
        if not self._submitted:
            raise SsdEdgeError("there is nothing to collect; submit frames first")
        detections, self.timings = self._submitted.popleft()
        return detections

    def _check_open(self) -> None:
        if self._closed:
            raise SsdEdgeError("this detector is closed; open the model again with open_detector")

    def _prepare(self, frames: Sequence[Pixels], buffer: NDArray[np.uint8]) -> Prepared:
        """Check frames and resize them into a buffer, uint8 [at least their number, height, width, 3]."""
        for index, frame in enumerate(frames):
            check_frame(index, frame)
        begin = time.perf_counter()
        for frame, image in zip(frames, buffer, strict=False):
            preprocess(in_memory(frame), (self.card.height, self.card.width), out=image)
        sizes_hw = [size_hw_of(frame) for frame in frames]
        return Prepared(buffer[: len(frames)], sizes_hw, 1e3 * (time.perf_counter() - begin))

    def _detect(self, batch: Prepared) -> tuple[list[Detections], Timings]:
        if not batch.sizes_hw:
            return [], Timings()
        begin = time.perf_counter()
        boxes, scores = self._outputs(batch.images_rgb)
        inferred = time.perf_counter()
        detections = [self._postprocess(*item) for item in zip(boxes, scores, batch.sizes_hw, strict=True)]
        nms_ms = 1e3 * (time.perf_counter() - inferred)
        return detections, Timings(batch.preprocess_ms, 1e3 * (inferred - begin), nms_ms)

    def _outputs(
        self, images_rgb: NDArray[np.uint8]
    ) -> tuple[Sequence[NDArray[np.float32]], Sequence[NDArray[np.float32]]]:
        """Boxes and scores of each image of a batch."""
        boxes, scores = self.infer(images_rgb)
        return list(boxes), list(scores)

    def _postprocess(
        self, boxes: NDArray[np.float32], scores: NDArray[np.float32], size_hw: tuple[int, int]
    ) -> Detections:
        found = nms(
            boxes,
            scores,
            score_threshold=self.score_threshold,
            iou_threshold=self.card.nms_iou,
            candidates=self.card.candidates,
            detections=self.card.detections,
            iou_epsilon=self.card.iou_epsilon,
            clip=self.card.clip_before_nms,
        )
        height, width = size_hw
        scale = np.array([width, height, width, height], np.float32)
        return Detections(found.boxes_xyxy.clip(0, 1) * scale, found.scores, found.labels)

    def close(self) -> None:
        """Free the model; a call after it raises `SsdEdgeError`. Closing twice does no harm."""
        if not self._closed:
            self._closed = True
            self._release()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _nobody() -> None:
    """Default no-op callback."""


def check_frame(index: int, frame: object) -> None:
    """Of a batch.

    Raises:
        ImageError: it is no picture, no array of NumPy, not uint8 [H, W, 3], or has no pixels.
    """
    if isinstance(frame, (YuvPlanes, GpuPicture)):
        return
    if not isinstance(frame, np.ndarray):
        raise ImageError(
            f"frame {index} is a {type(frame).__name__}; expected a NumPy array, uint8 [height, width, 3] in BGR; "
            "frames on the GPU are for detectors that run there, and ssd_edge.images.load_image reads an image file"
        )
    shape = list(frame.shape)
    if frame.dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or frame.size == 0:
        raise ImageError(
            f"frame {index} is {frame.dtype} {shape}; expected uint8 [height, width, 3] in BGR with at least "
            "one pixel; ssd_edge.images.to_bgr8 converts grey, BGRA and 16-bit images"
        )
