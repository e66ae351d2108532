"""`DetourEngine`: the network on the processor, everything around it on the GPU."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import numpy as np

from ssd_edge.runtime.backends.base import Detector
from ssd_edge.runtime.backends.gpu_engine import CaptureRefused, Engine
from ssd_edge.runtime.cuda.base import Cuda, Graph


class DetourEngine(Engine):
    """The network on the processor in the middle of the GPU's pipeline, so that results are to be equal bit by bit.

    Its waits are what a CUDA graph cannot hold.
    """

    def __init__(self, network: Detector, cuda: Cuda, *, batch: tuple[int, int] = (1, 4)) -> None:
        self.cuda, self.batch, self._network = cuda, batch, network
        self.size_hw = (network.card.height, network.card.width)
        boxes, scores = network.infer(np.zeros((1, *self.size_hw, 3), np.uint8))
        self.anchors, self.classes = scores.shape[1:]
        self._open = ExitStack()
        self.stream = self._open.enter_context(cuda.stream())
        sizes = (3 * self.size_hw[0] * self.size_hw[1], boxes.nbytes, scores.nbytes)
        self.images, self.boxes, self.scores = (
            self._open.enter_context(cuda.memory(batch[1] * size)).address for size in sizes
        )

    def enqueue(self, batch: int) -> None:
        images = np.empty((batch, *self.size_hw, 3), np.uint8)
        self.stream.copy(images.ctypes.data, self.images, images.nbytes)
        self.stream.synchronize()
        for address, values in zip((self.boxes, self.scores), self._network.infer(images), strict=True):
            self.stream.copy(address, values.ctypes.data, values.nbytes)
            self.stream.synchronize()

    def capture(self, work: Callable[[], None]) -> Graph:
        raise CaptureRefused("it waits for the processor")

    def close(self) -> None:
        self._open.close()
