"""ONNX to engine: parse, set up, compile."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

from ssd_edge.errors import ModelFileError, SsdEdgeError, UsageError
from ssd_edge.runtime.tensorrt.engine import TensorSpec
from ssd_edge.runtime.tensorrt.engine_card import BatchSizes
from ssd_edge.runtime.tensorrt.log import (
    NO_IMPLEMENTATION,
    OUT_OF_MEMORY,
    QUOTED_MESSAGES,
    MessageLog,
    tidy,
    unsupported_gpu,
)
from ssd_edge.runtime.tensorrt.progress import Progress, progress_monitor
from ssd_edge.runtime.tensorrt.threads import in_thread
from ssd_edge.runtime.tensorrt.versions import (
    DLA_VERSIONS,
    Builder,
    IBuilderConfig,
    INetworkDefinition,
    ITimingCache,
    OnnxParser,
    ParserError,
    TensorRT,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Network:
    """A parsed ONNX file, ready to be compiled. All members depend on the log's logger."""

    trt: TensorRT
    log: MessageLog
    builder: Builder
    definition: INetworkDefinition
    parser: OnnxParser  # it owns the weights

    def tensors(self) -> list[TensorSpec]:
        """Inputs, then outputs.

        Raises:
            ModelFileError: TensorRT cannot tell the shape of an output.
        """
        network = self.definition
        inputs = [network.get_input(index) for index in range(network.num_inputs)]
        outputs = [network.get_output(index) for index in range(network.num_outputs)]
        try:
            return [
                TensorSpec(tensor.name, tensor.dtype.name, tuple(tensor.shape), index < len(inputs))
                for index, tensor in enumerate([*inputs, *outputs])
            ]
        except (RuntimeError, ValueError) as error:
            raise ModelFileError(f"{self.trt} finds no shapes that fit together: {self.log.quote()}") from error


@dataclass(frozen=True)
class CompileOptions:
    """How a network is compiled.

    Attributes:
        workspace_bytes: bound of the scratch memory; None: TensorRT's own.
        timing_cache: content of a timing cache, empty for a new one; None: none.
        dla_core: core of the deep learning accelerator, with the GPU for what it cannot run; None: the GPU alone.
    """

    batch: BatchSizes
    workspace_bytes: int | None = None
    timing_cache: bytes | None = None
    dla_core: int | None = None


@dataclass(frozen=True)
class Compiled:
    """A raw plan, and the timing cache where one was asked for and TensorRT keeps one."""

    plan: memoryview
    timing_cache: bytes | None


def parse_onnx(trt: TensorRT, onnx: bytes, *, source: str) -> Network:
    """Parse an ONNX file into a strongly typed network.

    Raises:
        ModelFileError: TensorRT cannot read it; with the node's name.
        SsdEdgeError: TensorRT does not start, mostly for want of a driver.
    """
    log = MessageLog(trt)
    builder = _builder(trt, log)
    definition = builder.create_network(_network_flags(trt))
    parser = trt.api.OnnxParser(definition, log.logger)
    parsed = in_thread(lambda: parser.parse(onnx))
    if not parsed or parser.num_errors:
        raise ModelFileError(
            f"{source}: {trt} cannot read it: {_parser_errors(parser) or log.quote()}; "
            "write the file with: ssd-edge export CHECKPOINT -o model.onnx"
        )
    if definition.num_layers == 0 or definition.num_outputs == 0:
        raise ModelFileError(f"{source} is not an ONNX model: {trt} finds no layers or outputs in it")
    return Network(trt, log, builder, definition, parser)


def _builder(trt: TensorRT, log: MessageLog) -> Builder:
    try:
        builder = trt.api.Builder(log.logger)
    except (TypeError, RuntimeError) as error:  # pybind11's word for a null pointer
        raise unsupported_gpu(trt, log) or SsdEdgeError(
            f"{trt} does not start: {log.quote()}; it builds engines on a machine with an NVIDIA GPU and its driver "
            "(TensorRT-RTX, --tensorrt rtx, needs neither)"
        ) from error
    return builder


def _network_flags(trt: TensorRT) -> int:
    """10.x needs to be told that types are those of the graph; later ones ignore the flag, or have none."""
    flag = getattr(trt.api.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _parser_errors(parser: OnnxParser) -> str:
    errors = []
    for index in range(min(parser.num_errors, QUOTED_MESSAGES)):
        error: ParserError = parser.get_error(index)
        name, operator = error.node_name(), error.node_operator()
        where = f"node {name} ({operator}): " if name or operator else ""
        errors.append(where + tidy(error.desc()))
    return "; ".join(errors)


def compile_network(network: Network, options: CompileOptions, progress: Progress | None = None) -> Compiled:
    """Compile a network; takes from a second to many minutes.

    Ctrl-C cancels: TensorRT stops at its next step, then `KeyboardInterrupt` goes on its way.

    Args:
        progress: called with the fraction done, from another thread.

    Raises:
        UsageError: no such DLA core, or batch sizes that the network or the DLA cannot have.
        UnsupportedGpuError: TensorRT does not support this GPU.
        SsdEdgeError: TensorRT fails; with its messages, and what to do about memory.
    """
    trt = network.trt
    config = network.builder.create_builder_config()
    config.profiling_verbosity = trt.api.ProfilingVerbosity.DETAILED  # for the inspection of the engine
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.api.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    _set_batch(network, config, options.batch)
    if options.dla_core is not None:
        _use_dla(network, config, options)
    if hasattr(trt.api.BuilderFlag, "REQUIRE_USER_ALLOCATION"):  # RTX: else a CUDA graph cannot hold the engine
        config.set_flag(trt.api.BuilderFlag.REQUIRE_USER_ALLOCATION)
    cache = _attach_timing_cache(trt, config, options.timing_cache)
    cancelled = threading.Event()
    monitor = progress_monitor(trt, progress, cancelled)
    config.progress_monitor = monitor
    plan = in_thread(lambda: network.builder.build_serialized_network(network.definition, config), cancelled.set)
    if plan is None:
        raise _failure(network, options)
    timing_cache = None if cache is None else bytes(config.get_timing_cache().serialize())
    return Compiled(memoryview(plan), timing_cache)


def _set_batch(network: Network, config: IBuilderConfig, batch: BatchSizes) -> None:
    """One batch size becomes part of the input's shape; several become an optimisation profile."""
    for index in range(network.definition.num_inputs):
        tensor = network.definition.get_input(index)
        declared, *rest = tensor.shape
        if declared != -1 and (not batch.fixed or declared != batch.smallest):
            raise UsageError(f"--batch {batch}: the ONNX file fixes the batch at {declared}; give --batch {declared}")
        if batch.fixed:
            tensor.shape = (batch.smallest, *rest)
            continue
        profile = network.builder.create_optimization_profile()
        shapes = [(size, *rest) for size in (batch.smallest, batch.optimum, batch.largest)]
        profile.set_shape(tensor.name, *shapes)
        config.add_optimization_profile(profile)


def _use_dla(network: Network, config: IBuilderConfig, options: CompileOptions) -> None:
    trt, core = network.trt, options.dla_core
    cores = getattr(network.builder, "num_DLA_cores", 0)
    if core not in range(cores):
        raise UsageError(f"--dla {core}: {trt} finds {cores or 'no'} DLA cores here: {DLA_VERSIONS}")
    if not options.batch.fixed:
        raise UsageError(f"--dla with --batch {options.batch}: a DLA takes one batch size; give one, such as --batch 1")
    config.default_device_type = trt.api.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.api.BuilderFlag.GPU_FALLBACK)


def _attach_timing_cache(trt: TensorRT, config: IBuilderConfig, content: bytes | None) -> ITimingCache | None:
    """A cache of another version or GPU is replaced by an empty one."""
    if content is None:
        return None
    if trt.flavour == "rtx":
        logger.warning("%s does not use timing caches; --timing-cache is left aside", trt)
        return None
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, False):  # False: not one of another GPU
        logger.warning("the timing cache is of another TensorRT or GPU; a new one takes its place")
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _failure(network: Network, options: CompileOptions) -> SsdEdgeError:
    """What went wrong in a build, in TensorRT's words, with a remedy."""
    trt, log = network.trt, network.log
    workspace = "" if options.workspace_bytes is None else f", now {options.workspace_bytes / 1e9:.1f} GB"
    if refused := unsupported_gpu(trt, log):
        return refused
    if log.matches(OUT_OF_MEMORY):
        problem = f"{trt} ran out of GPU memory"
        remedy = (
            f"close what else uses the GPU, give a smaller --batch, now {options.batch}, or bound the scratch memory "
            f"with --workspace{workspace}"
        )
    elif match := log.matches(NO_IMPLEMENTATION):
        problem = f"{trt} has no kernel for {match[1].rstrip('.')}"
        remedy = f"allow more scratch memory with --workspace{workspace}, or leave that layer in fp32"
    else:
        problem = f"{trt} cannot build the engine"
        remedy = "see the messages with --debug"
    return SsdEdgeError(f"{problem}: {log.quote()}; {remedy}")
