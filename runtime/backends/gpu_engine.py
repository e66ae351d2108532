"""`Engine`: a network on the GPU that works at fixed addresses; `GpuDetector` runs it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from ssd_edge.runtime.cuda.base import Cuda, Graph, Resource, Stream
from ssd_edge.runtime.cuda.errors import CudaError


class CaptureRefused(CudaError):
    """No graph can hold the engine, now or later."""


class Engine(Resource):
    """A network that obeys the ONNX contract, with the memory that it reads and writes.

    It runs on one stream and is not re-entrant. Work on the stream runs in order, so batches reuse that memory.

    Attributes:
        cuda: the GPU, which the engine does not close.
        stream: on which it runs, and which it closes.
        batch: (smallest, largest) batch that it takes.
        size_hw: height and width of its images.
        anchors, classes: of its outputs.
        images: address of the input, uint8 [largest, height, width, 3] RGB.
        boxes: address of float32 [largest, anchors, 4].
        scores: address of float32 [largest, anchors, classes].
    """

    cuda: Cuda
    stream: Stream
    batch: tuple[int, int]
    size_hw: tuple[int, int]
    anchors: int
    classes: int
    images: int
    boxes: int
    scores: int

    @abstractmethod
    def enqueue(self, batch: int) -> None:
        """Put one run on the stream.

        Args:
            batch: images that it reads, from the smallest to the largest that it takes.

        Raises:
            SsdEdgeError: it does not run; with the cause.
        """

    def capture(self, work: Callable[[], None]) -> Graph:
        """Capture what `work` puts on the stream as a graph.

        Args:
            work: runs the engine once, with a batch size that has run before.

        Raises:
            CaptureRefused: no graph can hold the engine.
            SsdEdgeError: this capture failed; the stream can be used again.
        """
        self.stream.begin_capture()
        try:
            work()
        except BaseException:
            with suppress(CudaError):  # the first error is the cause
                self.stream.end_capture().close()
            raise
        return self.stream.end_capture()

    def infer(self, images_rgb: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Run images of the processor's memory, in parts of a size that the engine takes, and wait.

        Args:
            images_rgb: uint8 [batch, height, width, 3].

        Returns:
            boxes float32 [batch, anchors, 4] and scores float32 [batch, anchors, classes].
        """
        images_rgb = np.ascontiguousarray(images_rgb)
        height, width = self.size_hw
        if images_rgb.dtype != np.uint8 or images_rgb.shape[1:] != (height, width, 3):  # read by address
            raise ValueError(
                f"images are {images_rgb.dtype} {list(images_rgb.shape)}; expected uint8 [batch, {height}, {width}, 3]"
            )
        boxes = np.empty((len(images_rgb), self.anchors, 4), np.float32)
        scores = np.empty((len(images_rgb), self.anchors, self.classes), np.float32)
        smallest, largest = self.batch
        for start in range(0, len(images_rgb), largest):
            part = slice(start, start + largest)
            self.stream.copy(self.images, images_rgb[part].ctypes.data, images_rgb[part].nbytes)
            # A batch below the smallest is padded with whatever the memory holds; those outputs are not read.
            self.enqueue(max(smallest, len(images_rgb[part])))
            self.stream.copy(boxes[part].ctypes.data, self.boxes, boxes[part].nbytes)
            self.stream.copy(scores[part].ctypes.data, self.scores, scores[part].nbytes)
            self.stream.synchronize()
        return boxes, scores
