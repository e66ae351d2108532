"""The one file that knows how versions of TensorRT differ: TensorRT 10.3 to 11.x, and TensorRT-RTX.

What differs: the name of the package; strong typing, a flag in 10.x and always on in 11.x and RTX; timing caches,
which RTX does not use; DLA cores, which up to 10.7 and again from 11.4.1 (AGX Orin, JetPack 7.2.2) can be used; which
GPUs can run an engine; how an execution context is made, as RTX compiles for the GPU when it makes one. Builder flags
for FP16 and INT8 are never used: they are gone in 11.x, and here the precision is in the graph.

Sources: https://docs.nvidia.com/deeplearning/tensorrt/latest/ (Python API, migration from 10.x to 11.x, working with
DLA) and https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/.
"""

from __future__ import annotations

import importlib
import logging
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, TypeAlias, TypeVar

from ssd_edge.errors import MissingDependencyError, ModelFileError, SsdEdgeError, UsageError
from ssd_edge.runtime.cuda.base import Cuda, find_gpu, is_installed
from ssd_edge.runtime.host.fixes import extra_command, jetpack_fix, tensorrt_fix, tensorrt_load_fix
from ssd_edge.runtime.host.kind import read_host
from ssd_edge.runtime.tensorrt.engine_card import FLAVOURS, BatchSizes

_log = logging.getLogger(__name__)

MODULES = {"tensorrt": ("tensorrt",), "rtx": ("tensorrt_rtx_bindings", "tensorrt_rtx")}
OLDEST = {"tensorrt": (10, 3), "rtx": (1, 7)}
NAMES = {"tensorrt": "TensorRT", "rtx": "TensorRT-RTX"}
# https://docs.nvidia.com/deeplearning/tensorrt/11.4.1/inference-library/work-with-dla.html
DLA_VERSIONS = (
    "Jetson AGX Orin and Orin NX 16GB have two, Orin NX 8GB has one; TensorRT 10.3 to 10.7 (JetPack 6) can use them, "
    "and TensorRT from 11.4.1 (JetPack 7.2.2 or later) those of AGX Orin; leave --dla out to build for the GPU"
)
POLL_S = 0.1  # how soon Ctrl-C is noticed while TensorRT builds
QUOTED_MESSAGES = 3

Progress = Callable[[float, str], None]  # fraction done, name of the phase
Result = TypeVar("Result")

# TensorRT's classes, by their names there. To mypy they are Any, as every version brings its own;
# tests/runtime/tensorrt/test_bindings.py follows them through the code and checks each use against the real bindings.
Builder: TypeAlias = Any
IBuilderConfig: TypeAlias = Any
ICudaEngine: TypeAlias = Any
IExecutionContext: TypeAlias = Any
ExecutionContextAllocationStrategy: TypeAlias = Any
INetworkDefinition: TypeAlias = Any
IProgressMonitor: TypeAlias = Any
IRuntimeCache: TypeAlias = Any
IRuntimeConfig: TypeAlias = Any
ITimingCache: TypeAlias = Any
OnnxParser: TypeAlias = Any
ParserError: TypeAlias = Any
Runtime: TypeAlias = Any


@dataclass(frozen=True)
class TensorRT:
    """An installed TensorRT.

    Attributes:
        flavour: `tensorrt` or `rtx`.
        version: such as `10.3.0`.
        api: its Python module.
    """

    flavour: str
    version: str
    api: ModuleType

    def __str__(self) -> str:
        return f"{NAMES[self.flavour]} {self.version}"

    @property
    def builds_without_gpu(self) -> bool:
        """RTX compiles for the GPU when it loads an engine, so that it builds anywhere."""
        return self.flavour == "rtx"


def load_tensorrt(flavour: str | None = None) -> TensorRT:
    """Import TensorRT.

    Args:
        flavour: `tensorrt` or `rtx`; None: TensorRT where it is installed, else TensorRT-RTX.

    Raises:
        MissingDependencyError: not installed.
        SsdEdgeError: it does not load, or is too old.
        UsageError: another flavour.
    """
    if flavour not in (None, *FLAVOURS):
        raise UsageError(f"--tensorrt {flavour}: expected tensorrt or rtx")
    for candidate in FLAVOURS if flavour is None else (flavour,):
        api = _import(candidate)
        if api is not None:
            version = str(api.__version__)
            _check_version(candidate, version)
            return TensorRT(candidate, version, api)
    wanted = "neither TensorRT nor TensorRT-RTX" if flavour is None else f"no {NAMES[flavour]}"
    host = read_host()
    if flavour == "rtx":
        raise MissingDependencyError(f"{wanted} is installed", extra="rtx")
    if flavour is None and not host.nvidia:
        raise MissingDependencyError(f"{wanted} is installed; without a GPU TensorRT-RTX builds engines", extra="rtx")
    raise MissingDependencyError(f"{wanted} is installed", extra="tensorrt", fix=tensorrt_fix(host))


def _import(flavour: str) -> ModuleType | None:
    for name in MODULES[flavour]:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name == name:
                continue
            raise SsdEdgeError(f"{name} is installed but lacks {error.name}; install {NAMES[flavour]} again") from error
        except (ImportError, OSError) as error:
            if isinstance(error.__cause__, KeyboardInterrupt):  # pybind11 wraps it
                raise error.__cause__ from None
            fix = tensorrt_load_fix(str(error))
            raise SsdEdgeError(f"{name} is installed but does not load: {error}; {fix}") from error
        if hasattr(module, "Builder"):  # not so in a mere folder of that name
            return module
    return None


def _check_version(flavour: str, version: str) -> None:
    found = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    oldest = OLDEST[flavour]
    if found < oldest:
        raise SsdEdgeError(
            f"{NAMES[flavour]} {version} is too old; {oldest[0]}.{oldest[1]} or later is needed: {_update_fix(flavour)}"
        )


def _update_fix(flavour: str) -> str:
    if flavour == "rtx":
        return extra_command("rtx")
    host = read_host()
    return f"{jetpack_fix()} (6.0 has TensorRT 8.6)" if host.jetson else tensorrt_fix(host)


@dataclass(frozen=True)
class Message:
    """One line of TensorRT's log; `severity` is INTERNAL_ERROR, ERROR, WARNING or INFO."""

    severity: str
    text: str


class MessageLog:
    """Keeps what TensorRT says, so that an error can quote it.

    Attributes:
        messages: from INFO up; the thousands of VERBOSE lines are left out.
        logger: what TensorRT takes. It has to outlive what is made with it.
    """

    def __init__(self, trt: TensorRT) -> None:
        messages: list[Message] = []
        base = trt.api.ILogger

        def log(_: Any, severity: Any, text: str) -> None:
            if severity.name != "VERBOSE":
                messages.append(Message(severity.name, text))
                _log.debug("%s: %s: %s", trt, severity.name, text)

        self.messages = messages
        self.logger = type("Logger", (base,), {"__init__": lambda logger: base.__init__(logger), "log": log})()

    def quote(self) -> str:
        """The first errors on one line, in TensorRT's own words."""
        errors = [_tidy(message.text) for message in self.messages if "ERROR" in message.severity]
        quoted = list(dict.fromkeys(text for text in errors if text))[:QUOTED_MESSAGES]
        return "; ".join(quoted) or "it gives no reason"

    def matches(self, pattern: re.Pattern[str], *, warnings: bool = True) -> re.Match[str] | None:
        """The first match in errors, and in warnings unless they are left out."""
        left_out = ("INFO",) if warnings else ("INFO", "WARNING")
        texts = (message.text for message in self.messages if message.severity not in left_out)
        return next((match for text in texts if (match := pattern.search(text))), None)


def _tidy(text: str) -> str:
    """On one line, without the place in TensorRT's sources and the parser's frame around a node."""
    if "ModelImporter.cpp" in text:
        return ""  # said again by the parser, in order
    return re.sub(r"\s*In \S+ at /[^\s()]+", "", " ".join(text.split())).replace("( (", "((")


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: a dimension of -1 is dynamic; `dtype` is TensorRT's name, such as UINT8 or FLOAT."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    is_input: bool


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
        errors.append(where + _tidy(error.desc()))
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
    monitor = _progress_monitor(trt, progress, cancelled)
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
        _log.warning("%s does not use timing caches; --timing-cache is left aside", trt)
        return None
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, False):  # False: not one of another GPU
        _log.warning("the timing cache is of another TensorRT or GPU; a new one takes its place")
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


@dataclass
class _Phases:
    """Phases that run inside each other, as one fraction that only rises."""

    running: dict[str, tuple[str | None, int, int]] = field(default_factory=dict)  # name: parent, steps, steps done
    fraction: float = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        self.running[name] = (parent, max(1, steps), 0)

    def step(self, name: str, step: int) -> None:
        if name in self.running:
            parent, steps, _ = self.running[name]
            self.running[name] = (parent, steps, min(step + 1, steps))
            self.fraction = max(self.fraction, min(1.0, self._done(name)))

    def finish(self, name: str) -> None:
        self.running.pop(name, None)

    def _done(self, name: str) -> float:
        """Of the whole, when `name` alone advances."""
        share = 0.0
        current: str | None = name
        while current in self.running:
            current, steps, done = self.running[current]
            share = (done + share) / steps
        return share


def _progress_monitor(trt: TensorRT, progress: Progress | None, cancelled: threading.Event) -> IProgressMonitor:
    base = trt.api.IProgressMonitor
    phases, lock = _Phases(), threading.Lock()  # TensorRT calls from several threads

    def phase_start(_: Any, name: str, parent: str | None, steps: int) -> None:
        with lock:
            phases.start(name, parent, steps)

    def phase_finish(_: Any, name: str) -> None:
        with lock:
            phases.finish(name)

    def step_complete(_: Any, name: str, step: int) -> bool:
        with lock:
            phases.step(name, step)
            if progress is not None:
                progress(phases.fraction, name)
        return not cancelled.is_set()

    members = {
        "__init__": lambda monitor: base.__init__(monitor),
        "phase_start": phase_start,
        "phase_finish": phase_finish,
        "step_complete": step_complete,
    }
    return type("ProgressMonitor", (base,), members)()


def in_thread(work_of: Callable[[], Result], cancel: Callable[[], None] = lambda: None) -> Result:
    """Call TensorRT from another thread, and wait for it.

    Python sees Ctrl-C in the main thread alone, and there only between two lines of Python: not while TensorRT works,
    or else in the middle of its logger, whose exception crashes it.

    Args:
        cancel: called when the wait is interrupted, to make TensorRT end early; the wait goes on until it does.
    """
    results: list[Result] = []
    errors: list[BaseException] = []
    done = threading.Event()  # not Thread.join, which forgets a thread where it is interrupted (bpo-45274)

    def work() -> None:
        try:
            results.append(work_of())
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=work, name="tensorrt", daemon=True)
    try:
        thread.start()
        while not done.wait(POLL_S):
            pass
    except BaseException:
        cancel()
        if thread in threading.enumerate():
            done.wait()  # a thread inside TensorRT crashes a Python that ends
        raise
    if errors:
        raise errors[0]
    return results[0]


OUT_OF_MEMORY = re.compile(r"out ?of ?memory|memory \(?\d* ?bytes\)? could not be allocated|bad_alloc", re.IGNORECASE)
# "The engine cannot run on this GPU, which has compute capability …" is TensorRT-RTX's; where "Rebuild the engine for"
# follows, the engine was built for chosen GPUs and this is another that is supported.
UNSUPPORTED_GPU = re.compile(
    r"(?:GPU SM|compute capability)[^\n]{0,40}not supported|Unsupported SM\b|does not support this compute capability|"
    r"cannot run on this GPU(?!.*Rebuild the engine for)|no kernel image is available for execution on the device",
    re.IGNORECASE | re.DOTALL,
)
NO_IMPLEMENTATION = re.compile(r"Could not find any implementation for node ([^\n]{1,300})", re.IGNORECASE)
NO_DRIVER = re.compile(r"driver version is insufficient|no CUDA-capable device|CUDA initialization failure", re.I)


class UnsupportedGpuError(SsdEdgeError):
    """The installed TensorRT does not support the GPU: no build of the engine runs on it."""


def unsupported_gpu(trt: TensorRT, log: MessageLog) -> UnsupportedGpuError | None:
    """The error for a log in which TensorRT refuses the GPU; None: it does not, or it lacks memory.

    Warnings do not count: the log is as old as its engine, and TensorRT-RTX also warns of other GPUs than this one.
    """
    if log.matches(OUT_OF_MEMORY, warnings=False) or not log.matches(UNSUPPORTED_GPU, warnings=False):
        return None
    gpu = find_gpu()
    name = f"{gpu.name} (compute capability {gpu.compute_capability})" if gpu else "this GPU"
    return UnsupportedGpuError(
        f"{trt} does not support {name}{_listed_gpus(trt)}: {log.quote()}; {unsupported_remedy(trt.flavour)}"
    )


def unsupported_remedy(flavour: str) -> str:
    """What to do about a GPU that this flavour of TensorRT does not support."""
    if flavour == "tensorrt":
        return "install a version of TensorRT whose support matrix lists it"
    there = any(map(is_installed, MODULES["tensorrt"]))
    tensorrt = "with --tensorrt tensorrt" if there else f"({tensorrt_fix(read_host())})"
    return f"use TensorRT {tensorrt}, or run the .onnx file with ONNX Runtime or the checkpoint with PyTorch"


def _listed_gpus(trt: TensorRT) -> str:
    """The GPUs that TensorRT-RTX lists, as part of a sentence; empty where there is no list."""
    if not hasattr(trt.api, "ComputeCapability"):
        return ""
    numbers = [re.fullmatch(r"SM(\d+)(\d)", name) for name in trt.api.ComputeCapability.__members__]
    listed = [f"{number[1]}.{number[2]}" for number in numbers if number]
    return f", it lists compute capability {', '.join(listed)}"


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


@dataclass(frozen=True)
class LoadedEngine:
    """A deserialised engine with what has to outlive it; let go of the engine before the runtime."""

    trt: TensorRT
    log: MessageLog
    runtime: Runtime
    engine: ICudaEngine

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
            _log.debug("%s: the kernels that were kept are of another GPU or version", self.trt)
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
