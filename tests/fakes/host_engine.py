"""`HostEngine`: a network on `HostCuda`'s memory, in place of TensorRT: any function of a batch of images."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import ExitStack

import numpy as np

from ssd_edge.runtime.backends.gpu_engine import Engine
from ssd_edge.runtime.cuda.base import Graph
from ssd_edge.runtime.cuda.errors import CudaError
from tests.fakes.host_cuda import HostCuda, HostGraph, HostStream

Infer = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class HostEngine(Engine):
    """Runs `infer` (images uint8 [batch, height, width, 3] to boxes and scores) where the stream is at.

    As TensorRT, it has to run a batch size once before that is captured.

    Attributes:
        runs: the batch of every run, and those of replayed graphs.
        enqueued: calls of `enqueue`; replayed graphs make none.
        captures: how many graphs were captured.
        graphs: those, which have no calls left when they are closed.
        refused_captures: so many fail as on a GPU: when they end.
        fails: the next run raises it.
    """

    def __init__(
        self, infer: Infer, size_hw: tuple[int, int], *, cuda: HostCuda | None = None, batch: tuple[int, int] = (1, 4)
    ) -> None:
        self.cuda: HostCuda = cuda or HostCuda()
        self.batch, self.size_hw = batch, size_hw
        self._infer = infer
        boxes, scores = infer(np.zeros((1, *size_hw, 3), np.uint8))
        self.anchors, self.classes = scores.shape[1:]
        self._open = ExitStack()
        self.stream: HostStream = self._open.enter_context(self.cuda.stream())
        sizes = (3 * size_hw[0] * size_hw[1], 4 * boxes[0].size, 4 * scores[0].size)
        memories = [self._open.enter_context(self.cuda.memory(batch[1] * size)) for size in sizes]
        self.images, self.boxes, self.scores = (memory.address for memory in memories)
        self.runs: list[int] = []
        self._ready: set[int] = set()  # batch sizes
        self.enqueued = 0
        self.captures = 0
        self.graphs: list[HostGraph] = []
        self.refused_captures = 0
        self.fails: Exception | None = None

    def enqueue(self, batch: int) -> None:
        assert self.batch[0] <= batch <= self.batch[1]
        if self.fails is not None:
            error, self.fails = self.fails, None
            raise error
        self.enqueued += 1
        if self.stream.captured is None:
            self._ready.add(batch)
        assert batch in self._ready, f"a batch of {batch} is captured before it has run"
        self.stream.put(lambda: self._run(batch))

    def capture(self, work: Callable[[], None]) -> Graph:
        graph = super().capture(work)
        if self.refused_captures:
            self.refused_captures -= 1
            graph.close()
            raise CudaError("CUDA_ERROR_STREAM_CAPTURE_INVALIDATED")
        assert isinstance(graph, HostGraph)
        self.captures += 1
        self.graphs.append(graph)
        return graph

    def close(self) -> None:
        self._open.close()

    def _run(self, batch: int) -> None:
        self.runs.append(batch)
        size = batch * 3 * self.size_hw[0] * self.size_hw[1]
        images = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(self.images))
        boxes, scores = self._infer(images.reshape(batch, *self.size_hw, 3).copy())
        for address, values in ((self.boxes, boxes), (self.scores, scores)):
            values = np.ascontiguousarray(values, np.float32)
            ctypes.memmove(address, values.ctypes.data, values.nbytes)
