"""Run a TensorRT engine on the GPU."""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_edge.card import ModelCard
from ssd_edge.errors import MissingDependencyError, ModelFileError, SsdEdgeError
from ssd_edge.runtime.cuda_runtime import Cuda, load_cudart
from ssd_edge.runtime.detector import Detector
from ssd_edge.runtime.engine_card import EngineCard, check_fresh, read_engine_card
from ssd_edge.runtime.tensorrt_api import TensorRT, TensorSpec, deserialise, in_thread, load_tensorrt

NO_GPU = "TensorRT engines run on an NVIDIA GPU, and there is no driver or GPU here; open the .onnx file instead"


class EngineSession:
    """A loaded engine with its stream and its buffers on the GPU, all of which `close` frees.

    A context manager. The engine has to obey the contract of the ONNX file that it was built from.

    Attributes:
        batch: (smallest, largest) batch that the engine takes.
        context: TensorRT's execution context.
        loaded: the engine, `LoadedEngine`.

    Raises:
        ModelFileError: TensorRT refuses the plan, or its inputs and outputs break the contract.
        SsdEdgeError: no GPU, or not enough memory on it.
    """

    def __init__(self, trt: TensorRT, plan: bytes | memoryview, card: ModelCard, *, cuda: Cuda, source: str) -> None:
        self._cuda = cuda
        self._source = source
        self._open = ExitStack()
        try:
            self.loaded = deserialise(trt, plan, source=source)
            self._outputs = check_contract(self.loaded.tensors(), card, source)
            self.batch = self.loaded.batch_sizes("images")
            self.context = self._create_context()
            self._stream = cuda.call("cudaStreamCreate")
            self._open.callback(cuda.call, "cudaStreamDestroy", self._stream)
            self._image_shape = (card.height, card.width, 3)
            self._buffers = self._allocate()
        except BaseException:
            self.close()
            raise

    def run(self, images_rgb: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Run one batch of a size that the engine takes.

        Args:
            images_rgb: uint8 [batch, height, width, 3].

        Returns:
            boxes float32 [batch, anchors, 4] and scores float32 [batch, anchors, classes].

        Raises:
            SsdEdgeError: TensorRT or CUDA fails; with TensorRT's messages.
        """
        images_rgb = np.ascontiguousarray(images_rgb)
        if not self.context.set_input_shape("images", images_rgb.shape):
            raise self._failure(f"refuses images of shape {list(images_rgb.shape)}")
        outputs = {
            name: np.empty((len(images_rgb), *shape), np.float32)  # [batch, anchors, 4 or classes]
            for name, shape in self._outputs.items()
        }
        copy, kinds = "cudaMemcpyAsync", self._cuda.copy_kinds()
        self._cuda.call(
            copy, self._buffers["images"], images_rgb.ctypes.data, images_rgb.nbytes, kinds.to_device, self._stream
        )
        if not self.context.execute_async_v3(int(self._stream)):
            raise self._failure("does not run")
        for name, array in outputs.items():
            self._cuda.call(copy, array.ctypes.data, self._buffers[name], array.nbytes, kinds.to_host, self._stream)
        self._cuda.call("cudaStreamSynchronize", self._stream)
        return outputs["boxes"], outputs["scores"]

    def close(self) -> None:
        """Free the GPU's memory. Closing twice does no harm."""
        try:
            self._open.close()
        finally:  # the context before the engine, and the engine before its runtime
            self.context = None
            self.__dict__.pop("loaded", None)

    def __enter__(self) -> EngineSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _create_context(self) -> Any:
        context = in_thread(self.loaded.engine.create_execution_context)  # here TensorRT-RTX compiles
        if context is None:
            raise self._failure("cannot get the GPU memory that it works in")
        return context

    def _allocate(self) -> dict[str, int]:
        """Buffers for the largest batch; their addresses never change."""
        largest = self.batch[1]
        sizes = {"images": largest * math.prod(self._image_shape)}
        sizes |= {name: 4 * largest * math.prod(shape) for name, shape in self._outputs.items()}
        buffers = {}
        for name, size in sizes.items():
            buffers[name] = int(self._cuda.call("cudaMalloc", size))
            self._open.callback(self._cuda.call, "cudaFree", buffers[name])
            if not self.context.set_tensor_address(name, buffers[name]):
                raise self._failure(f"does not take the buffer of {name}")
        return buffers

    def _failure(self, problem: str) -> SsdEdgeError:
        return SsdEdgeError(
            f"{self._source}: the engine {problem}: {self.loaded.log.quote()}; close what else uses the GPU, "
            "or build it again with: ssd-edge build"
        )


class TensorRTDetector(Detector):
    """A `Detector` for TensorRT engines. Batches larger than the engine takes are run in parts.

    Args:
        session: the engine, which the detector closes.
        card: of the ONNX file that the engine was built from.
    """

    def __init__(self, session: EngineSession, card: ModelCard, *, score_threshold: float | None = None) -> None:
        self._session = session
        try:
            super().__init__(card, score_threshold=score_threshold)
        except BaseException:
            session.close()
            raise

    @classmethod
    def open(cls, path: Path, *, score_threshold: float | None = None) -> TensorRTDetector:
        """Open an `.engine` file, with its card beside it.

        Raises:
            ModelFileError: no card, or an engine that is not what its card says, or that was built from another ONNX
                file, by another TensorRT or for another GPU; with the command that rebuilds it.
            MissingDependencyError: no TensorRT, or no cuda-bindings.
            SsdEdgeError: no NVIDIA driver or GPU, or not enough memory on it.
        """
        card = read_engine_card(path)
        trt = _tensorrt_of(card)
        try:
            plan = path.read_bytes()
        except OSError as error:
            raise ModelFileError(f"cannot read {path}: {error.strerror or error}; check the path") from error
        cuda = load_cudart()
        gpu = cuda.gpu()
        # What is wrong with the file comes before what is wrong with the machine: it is wrong on every machine.
        check_fresh(path, card, plan, flavour=trt.flavour, version=trt.version, gpu=gpu)
        if gpu is None:
            raise SsdEdgeError(f"{path}: {NO_GPU}")
        session = EngineSession(trt, plan, card.model, cuda=cuda, source=str(path))
        return cls(session, card.model, score_threshold=score_threshold)

    def infer(self, images_rgb: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        smallest, largest = self._session.batch
        parts = [
            self._run_padded(images_rgb[start : start + largest], smallest)
            for start in range(0, len(images_rgb), largest)
        ]
        if len(parts) == 1:
            return parts[0]
        boxes, scores = zip(*parts, strict=True)
        return np.concatenate(boxes), np.concatenate(scores)

    def _run_padded(
        self, images_rgb: NDArray[np.uint8], smallest: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """An engine of fixed batch runs with blank images beside those it is given."""
        count = len(images_rgb)
        if count < smallest:
            blank = np.zeros((smallest - count, *images_rgb.shape[1:]), np.uint8)
            images_rgb = np.concatenate([images_rgb, blank])
        boxes, scores = self._session.run(images_rgb)
        return boxes[:count], scores[:count]

    def _release(self) -> None:
        self._session.close()


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
