"""Run a checkpoint with PyTorch on the GPU, in the same pipeline as a TensorRT engine. Needs the `train` extra."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ssd_edge.card import ModelCard
from ssd_edge.checkpoint import model_from_checkpoint
from ssd_edge.errors import MissingDependencyError, reason
from ssd_edge.models.predict import Predictor
from ssd_edge.models.ssd import SSD
from ssd_edge.runtime.backends.base import Detector
from ssd_edge.runtime.backends.gpu_detector import GpuDetector
from ssd_edge.runtime.backends.gpu_engine import Engine
from ssd_edge.runtime.backends.torch import TorchDetector
from ssd_edge.runtime.cuda.base import Cuda, Graph, Stream, capturing
from ssd_edge.runtime.cuda.errors import REFUSED_KERNELS, CudaError, CudaFatalError, cuda_failure
from ssd_edge.runtime.cuda.find import open_cuda
from ssd_edge.torch_device import torch_device

logger = logging.getLogger(__name__)

BATCH = 16  # the largest that memory is made for


class _Network(NamedTuple):
    """A model with its input and outputs on the GPU: PyTorch frees them when nothing refers to them."""

    predictor: Predictor
    images: torch.Tensor
    boxes: torch.Tensor
    scores: torch.Tensor

    def run(self, batch: int) -> None:
        """Put a run on PyTorch's current stream."""
        boxes, scores = self.predictor(self.images[:batch])
        self.boxes[:batch].copy_(boxes)
        self.scores[:batch].copy_(scores)


class TorchEngine(Engine):
    """A PyTorch model as an engine. The model must be on the GPU; it is put into evaluation mode.

    Args:
        half: use half precision where PyTorch's autocast does; decoding stays in float32. The model's convolutions are
            cast permanently, because autocast would cast their weights again in every run.
        batch: the largest batch.
    """

    def __init__(self, model: SSD, card: ModelCard, *, cuda: Cuda, half: bool = False, batch: int = BATCH) -> None:
        self.cuda = cuda
        self.batch = (1, batch)
        self.size_hw = (card.height, card.width)
        self.anchors, self.classes = len(model.default_boxes_xyxy), len(card.class_names)
        self.stream = cuda.stream()
        self._network: _Network | None = None
        self._half = half
        try:
            for module in model.modules() if half else ():
                if isinstance(module, nn.Conv2d):
                    module.half()
            device = model.default_boxes_xyxy.device
            self._stream = torch.cuda.ExternalStream(self.stream.handle, device=device)  # type: ignore[no-untyped-call]
            # One pool for the graphs of all batch sizes: they run in order, and their results are copied out of it.
            self._pool: Any = None
            self._graphs: set[torch.cuda.CUDAGraph] = set()  # that hold it
            network = _Network(
                Predictor(model).eval(),
                torch.zeros((batch, *self.size_hw, 3), dtype=torch.uint8, device=device),
                torch.zeros((batch, self.anchors, 4), device=device),
                torch.zeros((batch, self.anchors, self.classes), device=device),
            )
            # The model and these tensors were made on another stream. Waiting for the whole GPU instead would break
            # captures in other threads.
            self._stream.wait_stream(torch.cuda.current_stream(device))
            self.stream.synchronize()
        except BaseException:
            self.close()
            raise
        self._network = network
        self.images, self.boxes, self.scores = (
            tensor.data_ptr() for tensor in (network.images, network.boxes, network.scores)
        )

    def enqueue(self, batch: int) -> None:
        assert self._network is not None, "the engine is closed"
        autocast = torch.autocast("cuda", torch.float16, enabled=self._half)
        with (
            _checked(f"the network with a batch of {batch}"),
            torch.inference_mode(),
            torch.cuda.stream(self._stream),
            autocast,
        ):
            self._network.run(batch)

    def capture(self, work: Callable[[], None]) -> Graph:
        """Capture through PyTorch, whose allocator must know which memory a graph holds."""
        if not self._graphs:  # PyTorch may not take a pool again that no graph holds
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        captured = torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local")
        try:
            # The outer context: where a capture fails to end, PyTorch leaves this thread on the engine's stream.
            with torch.cuda.stream(self._stream), captured:
                work()
        except RuntimeError as error:
            raise _failure("capturing the network", error) from error
        self._graphs.add(graph)
        return _TorchGraph(graph, self._stream, partial(self._graphs.discard, graph))

    def close(self) -> None:
        """Free the stream, and let PyTorch free the rest."""
        self._network = None
        self.stream.close()


class _TorchGraph(Graph):
    """A graph of PyTorch's; it only runs on the stream that it was captured from."""

    def __init__(self, graph: torch.cuda.CUDAGraph, stream: torch.cuda.Stream, forget: Callable[[], None]) -> None:
        self._graph, self._stream, self._forget = graph, stream, forget

    def launch(self, stream: Stream) -> None:
        if stream.handle != self._stream.cuda_stream:
            raise CudaError("a graph of PyTorch's runs on the stream of its engine, and was launched on another")
        with _checked("a graph"), torch.cuda.stream(self._stream):
            self._graph.replay()

    def close(self) -> None:
        self._graph.reset()
        self._forget()


class TorchCudaDetector(GpuDetector):
    """A `GpuDetector` for PyTorch models."""


def open_on_cuda(
    path: Path, device: str, *, threads: int | None = None, score_threshold: float | None = None, slots: int = 2
) -> Detector:
    """Open a checkpoint on `cuda`, `cuda:1` and so on.

    Without a usable CUDA layer (cuda-core or PyCUDA), only the network runs on the GPU, in PyTorch.

    Args:
        slots: as `GpuDetector`.

    Raises:
        As `TorchDetector.open`.
    """
    chosen = torch_device(device)
    try:
        cuda = open_cuda(chosen.index or 0)
    except CudaFatalError:
        raise
    except (CudaError, MissingDependencyError) as error:
        logger.warning("only the network runs on the GPU: %s", error)
        return TorchDetector.open(path, threads=threads, score_threshold=score_threshold, device=device)
    try:
        model, card = model_from_checkpoint(path)
        if threads is not None:
            torch.set_num_threads(threads)
        with capturing:
            engine = TorchEngine(model.to(chosen), card, cuda=cuda)
    except BaseException:
        cuda.close()
        raise
    return TorchCudaDetector(engine, card, score_threshold=score_threshold, slots=slots)


@contextmanager
def _checked(call: str) -> Iterator[None]:
    """Convert PyTorch's memory and CUDA errors, which are kinds of `RuntimeError`, to ours."""
    try:
        yield
    except RuntimeError as error:
        if "CUDA" not in str(error):
            raise
        raise _failure(call, error) from error


def _failure(call: str, error: RuntimeError) -> CudaError:
    text = reason(error)
    if any(words in text for words in REFUSED_KERNELS.values()):  # PyTorch's own kernels
        return CudaError(
            f"{call} in PyTorch failed: {text}; this PyTorch {torch.__version__} has no kernels for this GPU: it was "
            f"built for {' '.join(torch.cuda.get_arch_list())}; install a build for this GPU, on a Jetson NVIDIA's"
        )
    return cuda_failure(f"{call} in PyTorch", text)
