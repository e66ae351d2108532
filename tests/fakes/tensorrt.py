"""A TensorRT made of plain Python, which records what is asked of it, and runs on `HostCuda`.

The engine gives every anchor of an image the score of its first pixel, and boxes that tell the anchor's number.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np

from ssd_edge.runtime.tensorrt.versions import TensorRT
from tests.fakes.tensorrt_script import ANCHORS, Script


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


def fake_tensorrt(script: Script, version: str = "10.3.0", flavour: str = "tensorrt", **members: Any) -> TensorRT:
    """A TensorRT that follows the script; `members` replace those of its module."""
    api = fake_api(script, version, flavour)
    vars(api).update(members)
    return TensorRT(flavour, version, api)  # type: ignore[arg-type]


def fake_api(script: Script, version: str, flavour: str) -> SimpleNamespace:
    """The module; what it and its classes have, the real one of that flavour has too (test_bindings.py)."""

    def with_logger(make: Any) -> Any:
        def create(*arguments: Any) -> Any:
            script.logger = arguments[-1]
            return make(script)

        return create

    rtx: dict[str, Any] = {}
    if flavour == "rtx":
        rtx = {
            "ComputeCapability": IntEnum("ComputeCapability", {"NONE": 0, "CURRENT": 1, "SM75": 75, "SM120": 120}),
            "CudaGraphStrategy": SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole graph"),
            "DynamicShapesKernelSpecializationStrategy": SimpleNamespace(EAGER="eager"),
        }
    script.rtx = flavour == "rtx"
    return SimpleNamespace(
        __version__=version,
        ILogger=Plain,
        IProgressMonitor=Plain,
        IProfiler=Plain,
        Builder=with_logger(Builder),
        OnnxParser=with_logger(OnnxParser),
        Runtime=with_logger(Runtime),
        NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=1),
        ProfilingVerbosity=SimpleNamespace(DETAILED="detailed"),
        MemoryPoolType=SimpleNamespace(WORKSPACE="workspace"),
        DeviceType=SimpleNamespace(DLA="dla"),
        BuilderFlag=SimpleNamespace(GPU_FALLBACK="fallback"),
        TensorIOMode=SimpleNamespace(INPUT="input", OUTPUT="output"),
        LayerInformationFormat=SimpleNamespace(JSON="json"),
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="user managed"),
        **rtx,
    )


# TensorRT's classes under its names; those that begin with Rtx have what TensorRT-RTX adds. Members of our own begin
# with an underscore.


class Builder:
    def __init__(self, script: Script) -> None:
        self._script = script
        self.num_DLA_cores = script.dla_cores

    def create_network(self, flags: int) -> INetworkDefinition:
        self._script.calls.append(("create_network", flags))
        return INetworkDefinition()

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig(self._script)

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile(self._script)

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> bytes | None:
        self._script.speak()
        monitor = config.progress_monitor
        monitor.phase_start("Building engine", None, 2)
        goes_on = monitor.step_complete("Building engine", 0) and monitor.step_complete("Building engine", 1)
        monitor.phase_finish("Building engine")
        self._script.calls.append(("built", tuple(network.get_input(0).shape), goes_on))
        return self._script.plan if goes_on else None


class INetworkDefinition:
    num_layers = 5
    num_inputs, num_outputs = 1, 2

    def __init__(self) -> None:
        self._tensors = [
            ITensor("images", DataType.UINT8, (-1, 32, 32, 3)),
            ITensor("boxes", DataType.FLOAT, (-1, ANCHORS, 4)),
            ITensor("scores", DataType.FLOAT, (-1, ANCHORS, 3)),
        ]

    def get_input(self, index: int) -> ITensor:
        return self._tensors[index]

    def get_output(self, index: int) -> ITensor:
        return self._tensors[1 + index]


class ITensor:
    def __init__(self, name: str, dtype: DataType, shape: tuple[int, ...]) -> None:
        self.name = name
        self.dtype = dtype
        self.shape = shape


class OnnxParser:
    num_errors = 0

    def __init__(self, script: Script) -> None:
        self._script = script

    def parse(self, model: bytes) -> bool:
        return True


class IOptimizationProfile:
    def __init__(self, script: Script) -> None:
        self._script = script

    def set_shape(self, name: str, smallest: Any, optimum: Any, largest: Any) -> None:
        self._script.calls.append(("set_shape", name, smallest, optimum, largest))


class IBuilderConfig:
    progress_monitor: Any = None

    def __init__(self, script: Script) -> None:
        self._script = script
        self._cache: ITimingCache | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("profiling_verbosity", "default_device_type", "DLA_core"):
            self._script.calls.append((name, value))
        super().__setattr__(name, value)

    def set_memory_pool_limit(self, pool: str, size: int) -> None:
        self._script.calls.append((pool, size))

    def set_flag(self, flag: str) -> None:
        self._script.calls.append(("set_flag", flag))

    def add_optimization_profile(self, profile: Any) -> None:
        self._script.calls.append(("add_profile",))

    def create_timing_cache(self, content: bytes) -> ITimingCache:
        self._script.calls.append(("timing_cache", content))
        return ITimingCache(content)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        self._cache = cache
        taken, self._script.takes_cache = self._script.takes_cache, True
        return taken and not ignore_mismatch

    def get_timing_cache(self) -> ITimingCache | None:
        return self._cache


class ITimingCache:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def serialize(self) -> bytes:
        return self._content + b" and more"


class Runtime:
    DLA_core = -1

    def __init__(self, script: Script) -> None:
        self._script = script
        self.engine_host_code_allowed = True  # so that a test sees it denied

    def deserialize_cuda_engine(self, plan: bytes) -> ICudaEngine | None:
        self._script.calls.append(("deserialise", bytes(plan), self.engine_host_code_allowed))
        if self.DLA_core != -1:
            self._script.calls.append(("runs on DLA", self.DLA_core))
        self._script.speak()
        kind = RtxCudaEngine if self._script.rtx else ICudaEngine
        return kind(self._script) if self._script.loads else None


class ICudaEngine:
    num_io_tensors = 3
    device_memory_size_v2 = 1000

    def __init__(self, script: Script) -> None:
        self._script = script
        script.note_end(self, "engine")
        smallest, _, largest = script.batch
        first = smallest if smallest == largest else -1
        self._shapes = {
            "scores": (first, ANCHORS, script.classes),
            "images": (first, script.size, script.size, 3),
            "boxes": (first, ANCHORS, 4),
        }

    def get_tensor_name(self, index: int) -> str:
        return list(self._shapes)[index]

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType.UINT8 if name == "images" else DataType.FLOAT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def get_tensor_mode(self, name: str) -> str:
        return "input" if name == "images" else "output"

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(size, *self._shapes[name][1:]) for size in self._script.batch]

    def create_execution_context(self, options: Any) -> IExecutionContext | None:
        assert threading.get_ident() in self._script.threads, "no CUDA context is current in this thread"
        self._script.calls.append(("context", options._strategy if self._script.rtx else options))
        if not self._script.has_context:
            self._script.speak()
            return None
        return RtxExecutionContext(self._script, options) if self._script.rtx else IExecutionContext(self._script)

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector(self._script)


class EngineInspector:
    execution_context: Any = None

    def __init__(self, script: Script) -> None:
        self._script = script

    def get_engine_information(self, kind: str) -> str:
        return self._script.layers


class RtxCudaEngine(ICudaEngine):
    def create_runtime_config(self) -> IRuntimeConfig:
        return IRuntimeConfig(self._script)


class IRuntimeConfig:
    """RTX's, which does not keep its cache."""

    cuda_graph_strategy = dynamic_shapes_kernel_specialization_strategy = _strategy = ""

    def __init__(self, script: Script) -> None:
        self._script = script
        script.note_end(self, "config")

    def set_execution_context_allocation_strategy(self, strategy: str) -> None:
        self._strategy = strategy

    def create_runtime_cache(self) -> IRuntimeCache:
        return IRuntimeCache(self._script)

    def set_runtime_cache(self, cache: IRuntimeCache) -> None:
        self._cache = weakref.ref(cache)

    def _add_kernel(self) -> None:
        cache = self._cache()
        assert cache is not None, "the runtime cache was used after it was let go of"
        cache._kernels += b"k"


class IRuntimeCache:
    """RTX's; its kernels are those that it was given and one for each context."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._kernels = b""
        script.note_end(self, "cache")

    def deserialize(self, kernels: bytes) -> bool:
        if self._script.takes_kernels:
            self._kernels = kernels
        return self._script.takes_kernels

    def serialize(self) -> bytes:
        return self._kernels


class IExecutionContext:
    def __init__(self, script: Script) -> None:
        self._script = script
        self._addresses: dict[str, int] = {}
        self._shape: tuple[int, ...] = ()
        self._has_memory = False
        self.profiler: Any = None
        script.note_end(self, "context")

    def set_device_memory(self, address: int, size: int) -> None:
        assert address % 256 == 0
        self._has_memory = size >= ICudaEngine.device_memory_size_v2

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._script.calls.append(("set_input_shape", name, tuple(shape)))
        assert not self._shape, "a graph may have been captured from this context"
        self._shape = tuple(shape)
        return self._script.batch[0] <= shape[0] <= self._script.batch[-1]

    def execute_async_v3(self, stream: int) -> bool:
        self._script.calls.append(("execute", self._shape[0]))
        if not self._script.runs or not self._has_memory:
            self._script.speak()
            return False
        self._script.streams[stream].put(self._run)
        return True

    def _run(self) -> None:
        count = self._shape[0]
        images = np.frombuffer(ctypes.string_at(self._addresses["images"], int(np.prod(self._shape))), np.uint8)
        first_pixels = images.reshape(count, -1)[:, 0]
        scores = np.repeat(first_pixels.astype(np.float32) / 255, ANCHORS * self._script.classes)
        boxes = np.tile(np.arange(ANCHORS * 4, dtype=np.float32) / 8, count)
        for name, values in (("scores", scores), ("boxes", boxes)):
            ctypes.memmove(self._addresses[name], values.ctypes.data, values.nbytes)


class RtxExecutionContext(IExecutionContext):
    def __init__(self, script: Script, options: IRuntimeConfig) -> None:
        super().__init__(script)
        options._add_kernel()
        script.calls += [
            ("specialises", options.dynamic_shapes_kernel_specialization_strategy),
            ("own graphs", options.cuda_graph_strategy),
        ]

    def is_stream_capturable(self, stream: int) -> bool:
        return stream in self._script.streams and self._script.capturable
