"""A compiled engine in memory: its tensors, its execution contexts, the time of its layers."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from ssd_edge.errors import ModelFileError, SsdEdgeError
from ssd_edge.runtime.cuda.base import Cuda
from ssd_edge.runtime.tensorrt.log import NO_DRIVER, OUT_OF_MEMORY, MessageLog, unsupported_gpu
from ssd_edge.runtime.tensorrt.threads import in_thread
from ssd_edge.runtime.tensorrt.versions import (
    ExecutionContextAllocationStrategy,
    ICudaEngine,
    IExecutionContext,
    IRuntimeCache,
    IRuntimeConfig,
    Runtime,
    TensorRT,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: a dimension of -1 is dynamic; `dtype` is TensorRT's name, such as UINT8 or FLOAT."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    is_input: bool


@dataclass
class ContextOptions:
    """How execution contexts are made.

    Attributes:
        native: TensorRT's own options; TensorRT-RTX's use the cache and do not keep it.
        cache: RTX's compiled kernels; None in TensorRT. Never RTX's `get_runtime_cache`: whose that is, is not said.
    """

    native: IRuntimeConfig | ExecutionContextAllocationStrategy | None
    cache: IRuntimeCache | None = None

    def close(self) -> None:
        """Let go of the options before their cache, when no context is left that was made with them."""
        self.native = None
        self.cache = None


@dataclass
class LoadedEngine:
    """A deserialised engine with what has to outlive it."""

    trt: TensorRT
    log: MessageLog
    runtime: Runtime
    engine: ICudaEngine

    def close(self) -> None:
        """Let go of the engine before its runtime, when none of its contexts is left."""
        self.engine = None
        self.runtime = None

    def tensors(self) -> list[TensorSpec]:
        """Inputs and outputs, in the engine's order."""
        engine, is_input = self.engine, self.trt.api.TensorIOMode.INPUT
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        return [
            TensorSpec(
                name,
                engine.get_tensor_dtype(name).name,
                tuple(engine.get_tensor_shape(name)),
                engine.get_tensor_mode(name) == is_input,
            )
            for name in names
        ]

    def batch_sizes(self, name: str) -> tuple[int, int]:
        """Smallest and largest batch that the input takes."""
        fixed = int(self.engine.get_tensor_shape(name)[0])
        if fixed != -1:
            return fixed, fixed
        smallest, _, largest = self.engine.get_tensor_profile_shape(name, 0)
        return int(smallest[0]), int(largest[0])

    @property
    def scratch_bytes(self) -> int:
        """Memory that a context works in, whatever its batch."""
        return int(self.engine.device_memory_size_v2)

    def context_options(self, kernels: bytes = b"") -> ContextOptions:
        """How contexts are made: with memory of ours, which the contexts of all batch sizes share.

        Args:
            kernels: of `compiled_kernels`; those of another GPU, driver or version are left aside.
        """
        api = self.trt.api
        user_managed = api.ExecutionContextAllocationStrategy.USER_MANAGED
        if self.trt.flavour != "rtx":
            return ContextOptions(user_managed)
        options = self.engine.create_runtime_config()
        options.set_execution_context_allocation_strategy(user_managed)
        # Kernels for the very shape at once, not later from a thread beside: a CUDA graph would keep the slow ones.
        options.dynamic_shapes_kernel_specialization_strategy = api.DynamicShapesKernelSpecializationStrategy.EAGER
        cache: IRuntimeCache = options.create_runtime_cache()
        if kernels and not cache.deserialize(kernels):
            logger.debug("%s: the kernels that were kept are of another GPU or version", self.trt)
        options.set_runtime_cache(cache)
        return ContextOptions(options, cache)

    def create_context(self, options: ContextOptions, scratch: int, cuda: Cuda) -> IExecutionContext | None:
        """An execution context that works in the memory at `scratch` of a GPU; here TensorRT-RTX compiles.

        None: it fails, for which the log has the reason.
        """
        context = in_thread(lambda: cuda.call(self.engine.create_execution_context, options.native))
        if context is not None:
            context.set_device_memory(scratch, self.scratch_bytes)
        return context

    def compiled_kernels(self, options: ContextOptions) -> bytes | None:
        """What RTX has compiled for the contexts so far, to be kept for the next start; None: nothing of that kind."""
        return None if options.cache is None else bytes(options.cache.serialize())

    def can_capture(self, context: IExecutionContext, stream: int) -> bool:
        """Whether a CUDA graph can hold a run of the context on a stream; only TensorRT-RTX has to be asked."""
        if self.trt.flavour != "rtx":
            return True
        return bool(context.is_stream_capturable(stream))

    def use_own_graphs(self, options: ContextOptions) -> None:
        """Let contexts that are made from now on capture CUDA graphs themselves; only TensorRT-RTX can."""
        if self.trt.flavour == "rtx":
            config: IRuntimeConfig = options.native
            config.cuda_graph_strategy = self.trt.api.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE

    def information(self, context: IExecutionContext) -> str:
        """JSON of the inspector. Formats are known where the context has its input shapes."""
        inspector = self.engine.create_engine_inspector()
        inspector.execution_context = context
        return str(inspector.get_engine_information(self.trt.api.LayerInformationFormat.JSON))


def deserialise(trt: TensorRT, plan: bytes | memoryview, *, source: str, dla_core: int | None = None) -> LoadedEngine:
    """Load a plan. It is executable code: load none that you did not build.

    Args:
        dla_core: core of the deep learning accelerator that its DLA layers run on; None: it has none.

    Raises:
        ModelFileError: TensorRT refuses it: damaged, or of another version or GPU.
        UnsupportedGpuError: TensorRT does not support this GPU.
        SsdEdgeError: there is no driver or GPU, or not enough memory.
    """
    log = MessageLog(trt)
    try:
        runtime = trt.api.Runtime(log.logger)
        runtime.engine_host_code_allowed = False
        if dla_core is not None:
            runtime.DLA_core = dla_core
        engine = in_thread(lambda: runtime.deserialize_cuda_engine(plan))
    except (TypeError, RuntimeError) as error:  # pybind11's word for a null pointer
        if not log.messages:
            raise
        raise unsupported_gpu(trt, log) or SsdEdgeError(
            f"{trt} does not start: {log.quote()}; check the NVIDIA driver"
        ) from error
    if engine is None:
        raise _load_failure(trt, log, source)
    return LoadedEngine(trt, log, runtime, engine)


def _load_failure(trt: TensorRT, log: MessageLog, source: str) -> SsdEdgeError:
    if refused := unsupported_gpu(trt, log):
        return refused
    if log.matches(NO_DRIVER):
        return SsdEdgeError(
            f"{source}: {trt} finds no NVIDIA driver or GPU here: {log.quote()}; open the .onnx file instead, "
            "which runs on the CPU"
        )
    if log.matches(OUT_OF_MEMORY):
        return SsdEdgeError(f"{source}: {trt} ran out of GPU memory: {log.quote()}; close what else uses the GPU")
    return ModelFileError(f"{source}: {trt} cannot load it: {log.quote()}; build it again here with: ssd-edge build")


class LayerTimes:
    """Milliseconds of each layer, added up over the runs of a context whose `profiler` this one's is.

    Raises nothing: a TensorRT that reports no times leaves `ms` empty.
    """

    def __init__(self, trt: TensorRT) -> None:
        times: dict[str, float] = {}
        base = trt.api.IProfiler

        def report_layer_time(_: Any, name: str, ms: float) -> None:
            times[name] = times.get(name, 0.0) + ms

        members = {"__init__": lambda profiler: base.__init__(profiler), "report_layer_time": report_layer_time}
        self.ms = times
        self.profiler = type("Profiler", (base,), members)()
