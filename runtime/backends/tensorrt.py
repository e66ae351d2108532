"""Run a TensorRT engine on the GPU."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from ssd_edge.card import ModelCard
from ssd_edge.errors import MissingDependencyError, ModelFileError, SinkError, SsdEdgeError
from ssd_edge.files import atomic_path, engine_cache_folder
from ssd_edge.runtime.backends.gpu_detector import GpuDetector
from ssd_edge.runtime.backends.gpu_engine import CaptureRefused, Engine
from ssd_edge.runtime.cuda.base import Cuda, Graph, Memory
from ssd_edge.runtime.cuda.find import find_gpu, open_cuda
from ssd_edge.runtime.tensorrt.engine import ContextOptions, TensorSpec, deserialise
from ssd_edge.runtime.tensorrt.engine_card import EngineCard, check_fresh, read_engine_card
from ssd_edge.runtime.tensorrt.log import unsupported_gpu
from ssd_edge.runtime.tensorrt.versions import IExecutionContext, TensorRT, load_tensorrt

logger = logging.getLogger(__name__)


class TensorRTEngine(Engine):
    """A loaded TensorRT engine with its stream and its memory on the GPU, all of which `close` frees.

    The engine has to obey the contract of the ONNX file that it was built from.

    Each batch size has an execution context of its own, as TensorRT leaves undefined what a captured graph does once
    the shapes of its context have changed; they run in order and share the memory that they work in
    (https://docs.nvidia.com/deeplearning/tensorrt/latest/performance/best-practices.html, CUDA graphs).

    Args:
        kernels: file that keeps what TensorRT-RTX compiles for this GPU, so that the next start is quick.
        dla_core: core of the deep learning accelerator that it was built for; None: for the GPU.

    Attributes:
        loaded: the engine, `LoadedEngine`.

    Raises:
        ModelFileError: TensorRT refuses the plan, or its inputs and outputs break the contract.
        UnsupportedGpuError: TensorRT does not support this GPU.
        SsdEdgeError: not enough memory on the GPU.
    """

    def __init__(
        self,
        trt: TensorRT,
        plan: bytes | memoryview,
        card: ModelCard,
        *,
        cuda: Cuda,
        source: str,
        kernels: Path | None = None,
        dla_core: int | None = None,
    ) -> None:
        self.cuda = cuda
        self._source = source
        self._kernels = kernels
        self._options = ContextOptions(None)  # until there is an engine
        self._contexts: dict[int, IExecutionContext] = {}  # by batch
        self._ran: set[int] = set()  # batches
        self._open = ExitStack()
        self.loaded = deserialise(trt, plan, source=source, dla_core=dla_core)
        try:
            outputs = check_contract(self.loaded.tensors(), card, source)
            self.batch = self.loaded.batch_sizes("images")
            self.size_hw = (card.height, card.width)
            self.anchors, self.classes = outputs["scores"]
            self.stream = self._open.enter_context(cuda.stream())
            self.images = self._memory(math.prod((*self.size_hw, 3))).address
            self.boxes, self.scores = (self._memory(4 * math.prod(outputs[name])).address for name in outputs)
            self._scratch = self._open.enter_context(cuda.memory(max(1, self.loaded.scratch_bytes)))
            self._options = self.loaded.context_options(self._read_kernels())
            self.context(self.batch[0])  # what fails is to fail now
        except BaseException:
            self.close()
            raise

    def enqueue(self, batch: int) -> None:
        context = self.context(batch)
        self.loaded.log.clear()
        if not context.execute_async_v3(self.stream.handle):
            raise self._failure("does not run")
        if batch not in self._ran:
            self._ran.add(batch)
            self._keep_kernels()  # which RTX compiles for a shape when it first runs

    def capture(self, work: Callable[[], None]) -> Graph:
        if not all(self.loaded.can_capture(context, self.stream.handle) for context in self._contexts.values()):
            self.stream.synchronize()
            self._contexts.clear()
            self.loaded.use_own_graphs(self._options)
            raise CaptureRefused(f"{self._source}: {self.loaded.trt} cannot be captured here, but captures itself")
        return super().capture(work)

    def context(self, batch: int) -> IExecutionContext:
        """TensorRT's execution context for a batch size, made when it is first asked for."""
        if batch not in self._contexts:
            self.loaded.log.clear()
            context = self.loaded.create_context(self._options, self._scratch.address, self.cuda)
            problem = "cannot be made ready to run" if context is None else self._bind(context, batch)
            if problem is not None:
                del context  # else the error's traceback holds it beyond `close`
                raise self._failure(problem)
            self._contexts[batch] = context
        return self._contexts[batch]

    def close(self) -> None:
        self._contexts.clear()  # contexts, then what they were made with, then the engine, then its runtime
        self._options.close()
        self.loaded.close()
        self._open.close()

    def _bind(self, context: IExecutionContext, batch: int) -> str | None:
        """Give a context its addresses and shape; the problem, where it takes them not."""
        for name, address in (("images", self.images), ("boxes", self.boxes), ("scores", self.scores)):
            if not context.set_tensor_address(name, address):
                return f"does not take the memory of {name}"
        shape = (batch, *self.size_hw, 3)
        if not context.set_input_shape("images", shape):
            return f"refuses images of shape {list(shape)}"
        return None

    def _memory(self, image_bytes: int) -> Memory:
        return self._open.enter_context(self.cuda.memory(self.batch[1] * image_bytes))

    def _read_kernels(self) -> bytes:
        if self._kernels is not None:
            with suppress(OSError):
                return self._kernels.read_bytes()
        return b""

    def _keep_kernels(self) -> None:
        """A disk that is full or read-only costs only time at the next start."""
        kernels = None if self._kernels is None else self.loaded.compiled_kernels(self._options)
        if kernels and self._kernels is not None:
            try:
                with atomic_path(self._kernels) as path:
                    path.write_bytes(kernels)
            except SinkError as error:
                logger.debug("compiled kernels are not kept: %s", error)

    def _failure(self, problem: str) -> SsdEdgeError:
        """The error for a call that failed, with what TensorRT has said since the log was cleared before it."""
        return unsupported_gpu(self.loaded.trt, self.loaded.log) or SsdEdgeError(
            f"{self._source}: the engine {problem}: {self.loaded.log.quote()}; close what else uses the GPU, "
            "or build it again with: ssd-edge build"
        )


class TensorRTDetector(GpuDetector):
    """A `GpuDetector` for `.engine` files."""

    @classmethod
    def open(cls, path: Path, *, score_threshold: float | None = None, slots: int = 2) -> TensorRTDetector:
        """Open an `.engine` file, with its card beside it.

        Args:
            slots: as `GpuDetector`.

        Raises:
            ModelFileError: no card, or an engine that is not what its card says, or that was built from another ONNX
                file, by another TensorRT or for another GPU; with the command that rebuilds it.
            MissingDependencyError: no TensorRT, or no cuda-core.
            UnsupportedGpuError: TensorRT does not support this GPU.
            SsdEdgeError: no NVIDIA driver or GPU, or not enough memory on it.
        """
        card = read_engine_card(path)
        trt = _tensorrt_of(card)
        try:
            plan = path.read_bytes()
        except OSError as error:
            raise ModelFileError(f"cannot read {path}: {error.strerror or error}; check the path") from error
        gpu = find_gpu()
        # What is wrong with the file comes before what is wrong with the machine: it is wrong on every machine.
        check_fresh(path, card, plan, flavour=trt.flavour, version=trt.version, gpu=gpu)
        cuda = open_cuda()
        try:
            kernels = engine_cache_folder() / f"{card.engine_sha256}.kernels"
            engine = TensorRTEngine(
                trt, plan, card.model, cuda=cuda, source=str(path), kernels=kernels, dla_core=card.dla
            )
        except BaseException:
            cuda.close()
            raise
        return cls(engine, card.model, score_threshold=score_threshold, slots=slots)


def _tensorrt_of(card: EngineCard) -> TensorRT:
    """The flavour that built the engine; else whichever is there, for the refusal to name it."""
    try:
        return load_tensorrt(card.flavour)
    except MissingDependencyError:
        return load_tensorrt()


def check_contract(tensors: list[TensorSpec], card: ModelCard, source: str) -> dict[str, tuple[int, int]]:
    """Shapes of the outputs of one image.

    Raises:
        ModelFileError: names, types or shapes are not those of the contract.
    """
    found = {tensor.name: tensor for tensor in tensors}
    anchors = found["boxes"].shape[1] if "boxes" in found and len(found["boxes"].shape) == 3 else -1
    outputs = {"boxes": (anchors, 4), "scores": (anchors, len(card.class_names))}
    expected: dict[str, tuple[str, tuple[int, ...], bool]] = {"images": ("UINT8", (card.height, card.width, 3), True)}
    expected |= {name: ("FLOAT", shape, False) for name, shape in outputs.items()}
    fits = found.keys() == expected.keys() and anchors > 0
    if not fits or any((t.dtype, t.shape[1:], t.is_input) != expected[t.name] for t in tensors):
        described = ", ".join(f"{t.name} {t.dtype} {list(t.shape)}" for t in tensors)
        raise ModelFileError(
            f"{source} has {described}; expected images UINT8 [batch, {card.height}, {card.width}, 3], boxes FLOAT "
            f"[batch, anchors, 4] and scores FLOAT [batch, anchors, {len(card.class_names)}], as its card has it; "
            "write the ONNX file with ssd-edge export CHECKPOINT -o model.onnx, and build the engine from it"
        )
    return outputs
