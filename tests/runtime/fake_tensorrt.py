"""A TensorRT made of plain Python, which records what is asked of it, and runs on `HostCuda`.

The engine gives every anchor of an image the score of its first pixel, and boxes that tell the anchor's number.
"""

import ctypes
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np
from host_cuda import HostCuda, HostStream

from ssd_edge.card import ModelCard
from ssd_edge.runtime.cuda import CudaMemoryError, Memory, Stream
from ssd_edge.runtime.tensorrt_api import TensorRT

ANCHORS = 2
CARD = ModelCard(
    arch="fake",
    height=32,
    width=32,
    class_names=("a", "b", "c"),
    category_ids=(1, 2, 4),
    mean=(0.0,) * 3,
    std=(1.0,) * 3,
    score_threshold=0.5,
    nms_iou=0.5,
    candidates=10,
    detections=10,
)


class Severity(IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class DataType(IntEnum):
    FLOAT = 0
    HALF = 1
    UINT8 = 2


class Plain:
    """Stands for ILogger, IProgressMonitor and IProfiler."""


@dataclass
class Script:
    """What the fakes shall do, and what was asked of them.

    Attributes:
        says: what TensorRT logs while it builds, loads or runs: (severity, text).
        plan: what a build gives; None: it fails.
        loads: whether an engine can be deserialised.
        batch: smallest, optimum and largest batch of the engine.
        classes: of its scores.
        threads: in which the GPU's context is current.
        mallocs: how many allocations succeed.
        capturable: whether RTX says that a CUDA graph can hold the engine; None: it is not asked.
        takes_kernels: whether RTX takes kernels that were kept.
        streams: of the GPU, by handle.
        gone: what was let go of, in order: context, config, cache (RTX's), engine, and the GPU.
    """

    says: list[tuple[Severity, str]] = field(default_factory=list)
    plan: bytes | None = b"plan"
    loads: bool = True
    has_context: bool = True
    runs: bool = True
    batch: tuple[int, int, int] = (1, 1, 1)
    classes: int = 3
    size: int = 32
    threads: set[int] = field(default_factory=set)
    mallocs: int = 100
    capturable: bool | None = None
    takes_kernels: bool = True
    dla_cores: int = 0
    takes_cache: bool = True
    calls: list[Any] = field(default_factory=list)
    streams: dict[int, HostStream] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)
    logger: Any = None
    cuda: Any = None

    def note_end(self, thing: object, name: str) -> None:
        weakref.finalize(thing, self.gone.append, name)

    def speak(self) -> None:
        for severity, text in self.says:
            self.logger.log(severity, text)


def fake_tensorrt(script: Script, version: str = "10.3.0", flavour: str = "tensorrt", **members: Any) -> TensorRT:
    """A TensorRT that follows the script; `members` replace those of its module."""

    def with_logger(make: Any) -> Any:
        def create(*arguments: Any) -> Any:
            script.logger = arguments[-1]
            return make(script)

        return create

    api = SimpleNamespace(
        __version__=version,
        ILogger=Plain,
        IProgressMonitor=Plain,
        IProfiler=Plain,
        Builder=with_logger(Builder),
        OnnxParser=with_logger(lambda script: SimpleNamespace(parse=lambda _: True, num_errors=0)),
        Runtime=with_logger(Runtime),
        NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=1),
        ProfilingVerbosity=SimpleNamespace(DETAILED="detailed"),
        MemoryPoolType=SimpleNamespace(WORKSPACE="workspace"),
        DeviceType=SimpleNamespace(DLA="dla"),
        BuilderFlag=SimpleNamespace(GPU_FALLBACK="fallback"),
        TensorIOMode=SimpleNamespace(INPUT="input", OUTPUT="output"),
        LayerInformationFormat=SimpleNamespace(JSON="json"),
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="user managed"),
        DynamicShapesKernelSpecializationStrategy=SimpleNamespace(EAGER="eager"),
        CudaGraphStrategy=SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole graph"),
    )
    vars(api).update(members)
    return TensorRT(flavour, version, api)


class Builder:
    def __init__(self, script: Script) -> None:
        self.script = script
        self.num_DLA_cores = script.dla_cores

    def create_network(self, flags: int) -> Any:
        self.script.calls.append(("create_network", flags))
        images = SimpleNamespace(name="images", dtype=DataType.UINT8, shape=(-1, 32, 32, 3))
        return SimpleNamespace(num_layers=5, num_inputs=1, num_outputs=2, get_input=lambda _: images)

    def create_builder_config(self) -> "Config":
        return Config(self.script)

    def create_optimization_profile(self) -> Any:
        return SimpleNamespace(set_shape=lambda *shapes: self.script.calls.append(("set_shape", *shapes)))

    def build_serialized_network(self, network: Any, config: "Config") -> bytes | None:
        self.script.speak()
        monitor = config.progress_monitor
        monitor.phase_start("Building engine", None, 2)
        goes_on = monitor.step_complete("Building engine", 0) and monitor.step_complete("Building engine", 1)
        monitor.phase_finish("Building engine")
        self.script.calls.append(("built", tuple(network.get_input(0).shape), goes_on))
        return self.script.plan if goes_on else None


class Config:
    def __init__(self, script: Script) -> None:
        self.script = script
        self.cache = b""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("profiling_verbosity", "default_device_type", "DLA_core"):
            self.script.calls.append((name, value))
        super().__setattr__(name, value)

    def set_memory_pool_limit(self, pool: str, size: int) -> None:
        self.script.calls.append((pool, size))

    def set_flag(self, flag: str) -> None:
        self.script.calls.append(("set_flag", flag))

    def add_optimization_profile(self, profile: Any) -> None:
        self.script.calls.append(("add_profile",))

    def create_timing_cache(self, content: bytes) -> Any:
        self.script.calls.append(("timing_cache", content))
        return SimpleNamespace(serialize=lambda: content + b" and more")

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        self.cache = cache
        taken, self.script.takes_cache = self.script.takes_cache, True
        return taken and not ignore_mismatch

    def get_timing_cache(self) -> Any:
        return self.cache


class Runtime:
    def __init__(self, script: Script) -> None:
        self.script = script
        self.engine_host_code_allowed = True  # so that a test sees it denied

    def deserialize_cuda_engine(self, plan: bytes) -> "Engine | None":
        self.script.calls.append(("deserialise", bytes(plan), self.engine_host_code_allowed))
        self.script.speak()
        return Engine(self.script) if self.script.loads else None


class Engine:
    num_io_tensors = 3

    def __init__(self, script: Script) -> None:
        self.script = script
        script.note_end(self, "engine")
        smallest, _, largest = script.batch
        first = smallest if smallest == largest else -1
        self.shapes = {
            "scores": (first, ANCHORS, script.classes),
            "images": (first, script.size, script.size, 3),
            "boxes": (first, ANCHORS, 4),
        }

    def get_tensor_name(self, index: int) -> str:
        return list(self.shapes)[index]

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType.UINT8 if name == "images" else DataType.FLOAT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def get_tensor_mode(self, name: str) -> str:
        return "input" if name == "images" else "output"

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(size, *self.shapes[name][1:]) for size in self.script.batch]

    device_memory_size_v2 = 1000

    def create_runtime_config(self) -> "RuntimeConfig":
        return RuntimeConfig(self.script)

    def create_execution_context(self, options: Any) -> "Context | None":
        assert threading.get_ident() in self.script.threads, "no CUDA context is current in this thread"
        strategy = options.strategy if isinstance(options, RuntimeConfig) else options
        self.script.calls.append(("context", strategy))
        return Context(self.script, options) if self.script.has_context else None

    def create_engine_inspector(self) -> Any:
        return SimpleNamespace(get_engine_information=lambda _: '{"Layers": []}')


class RuntimeConfig:
    """RTX's, which does not keep its cache."""

    cuda_graph_strategy = dynamic_shapes_kernel_specialization_strategy = strategy = ""

    def __init__(self, script: Script) -> None:
        self.script = script
        script.note_end(self, "config")

    def set_execution_context_allocation_strategy(self, strategy: str) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> "RuntimeCache":
        return RuntimeCache(self.script)

    def set_runtime_cache(self, cache: "RuntimeCache") -> None:
        self.cache = weakref.ref(cache)

    def add_kernel(self) -> None:
        cache = self.cache()
        assert cache is not None, "the runtime cache was used after it was let go of"
        cache.kernels += b"k"


class RuntimeCache:
    """RTX's; its kernels are those that it was given and one for each context."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.kernels = b""
        script.note_end(self, "cache")

    def deserialize(self, kernels: bytes) -> bool:
        if self.script.takes_kernels:
            self.kernels = kernels
        return self.script.takes_kernels

    def serialize(self) -> bytes:
        return self.kernels


class Context:
    def __init__(self, script: Script, options: Any) -> None:
        self.script = script
        self.addresses: dict[str, int] = {}
        self.shape: tuple[int, ...] = ()
        self.has_memory = False
        self.profiler: Any = None
        script.note_end(self, "context")
        if isinstance(options, RuntimeConfig):
            options.add_kernel()
            script.calls += [
                ("specialises", options.dynamic_shapes_kernel_specialization_strategy),
                ("own graphs", options.cuda_graph_strategy),
            ]
        if script.capturable is not None:
            self.is_stream_capturable = lambda stream: stream in script.streams and script.capturable

    def set_device_memory(self, address: int, size: int) -> None:
        assert address % 256 == 0
        self.has_memory = size >= Engine.device_memory_size_v2

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.script.calls.append(("set_input_shape", name, tuple(shape)))
        assert not self.shape, "a graph may have been captured from this context"
        self.shape = tuple(shape)
        return self.script.batch[0] <= shape[0] <= self.script.batch[-1]

    def execute_async_v3(self, stream: int) -> bool:
        self.script.calls.append(("execute", self.shape[0]))
        if not self.script.runs or not self.has_memory:
            self.script.speak()
            return False
        self.script.streams[stream]._put(self._run)
        return True

    def _run(self) -> None:
        count = self.shape[0]
        images = np.frombuffer(ctypes.string_at(self.addresses["images"], int(np.prod(self.shape))), np.uint8)
        first_pixels = images.reshape(count, -1)[:, 0]
        scores = np.repeat(first_pixels.astype(np.float32) / 255, ANCHORS * self.script.classes)
        boxes = np.tile(np.arange(ANCHORS * 4, dtype=np.float32) / 8, count)
        for name, values in (("scores", scores), ("boxes", boxes)):
            ctypes.memmove(self.addresses[name], values.ctypes.data, values.nbytes)


class FakeCuda(HostCuda):
    """A GPU for `fake_tensorrt`: the script knows its streams, and says how many allocations it has."""

    def __init__(self, script: Script) -> None:
        super().__init__()
        self.script = script
        self.closed = 0

    def stream(self) -> Stream:
        stream = super().stream()
        assert isinstance(stream, HostStream)
        self.script.streams[stream.handle] = stream
        return stream

    def memory(self, size: int) -> Memory:
        self.script.mallocs -= 1
        if self.script.mallocs < 0:
            raise CudaMemoryError(f"out of GPU memory for {size} bytes")
        return super().memory(size)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        thread = threading.get_ident()
        self.script.threads.add(thread)
        try:
            return function(*arguments)
        finally:
            self.script.threads.remove(thread)

    def close(self) -> None:
        self.closed += 1
        self.script.gone.append("GPU")
