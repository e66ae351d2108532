"""`Cuda` on NVIDIA's cuda-python: `cuda.core` for contexts, streams, events and kernels, and beneath it the bindings of
the driver for what it does not have: raw memory, copies in any direction, a capture that may fail.

https://nvidia.github.io/cuda-python/cuda-core/latest/api.html,
https://nvidia.github.io/cuda-python/cuda-bindings/latest/module/driver.html
"""

from __future__ import annotations

import ctypes
import importlib
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ssd_edge.errors import MissingDependencyError, SsdEdgeError
from ssd_edge.packages import installed_version
from ssd_edge.runtime.cuda.base import Cuda, Event, Gpu, Graph, HostMemory, Memory, Stream, check_ordinal
from ssd_edge.runtime.cuda.errors import CudaError, cuda_failure
from ssd_edge.runtime.cuda.kernel_cache import compile_kernels, is_machine_code
from ssd_edge.runtime.host.fixes import ANY_DOCKER_RUN, extra_command
from ssd_edge.runtime.host.kind import read_host, version_numbers

DEFAULT_SHARED_BYTES = 48 * 1024  # of a block; more has to be asked for
STATUS = re.compile(r"CUDA_ERROR_\w+")
# Earlier versions of cuda-core have other options of events, and 1.0.0 does not import with cuda-bindings 13.0. With
# earlier cuda-bindings of each CUDA the process crashes when it ends, as cuda-core lets go of its context.
# pyproject.toml has the same numbers; tests/runtime/cuda/test_core_versions.py tries them.
OLDEST_CORE = "1.0.1"
OLDEST_BINDINGS = {12: "12.9.3", 13: "13.0.2"}


class Api(NamedTuple):
    """The modules.

    Attributes:
        version: of the bindings, such as `13.0.1`; they need a driver for that CUDA.
    """

    core: Any
    driver: Any
    version: str


def load_api() -> Api:
    """Import cuda-python.

    Raises:
        MissingDependencyError: it is not installed, or too old.
        CudaError: it is installed, but does not load.
    """
    try:
        core, driver, bindings = map(importlib.import_module, ("cuda.core", "cuda.bindings.driver", "cuda.bindings"))
    except ImportError as error:
        raise _import_failure(error) from error
    check_versions(core.__version__, bindings.__version__)
    return Api(core, driver, bindings.__version__)


def _import_failure(error: ImportError) -> SsdEdgeError:
    """Why it does not import: absent, too old, or broken."""
    core, bindings = installed_version("cuda-core"), installed_version("cuda-bindings")
    if core is None or bindings is None:
        absent = "cuda-core" if core is None else "cuda-bindings"
        return MissingDependencyError(
            f"running on a GPU needs the package {absent}, which is not installed ({error})",
            extra=read_host().cuda_extra,
        )
    check_versions(core, bindings)
    needed = OLDEST_BINDINGS[read_host().cuda_major]
    return CudaError(
        f"cuda-core {core} with cuda-bindings {bindings} is installed but does not load ({error}); install both again: "
        f"pip install --force-reinstall 'cuda-core>={OLDEST_CORE}' 'cuda-bindings>={needed},<{int(needed[:2]) + 1}'"
    )


def check_versions(core: str, bindings: str) -> None:
    """
    Raises:
        MissingDependencyError: one of them is too old.
    """
    oldest = OLDEST_BINDINGS.get(version_numbers(bindings)[0], OLDEST_BINDINGS[12])
    for package, found, needed in (("cuda-core", core, OLDEST_CORE), ("cuda-bindings", bindings, oldest)):
        if version_numbers(found) < version_numbers(needed):
            raise MissingDependencyError(
                f"{package} {found} is too old, running on a GPU needs {needed} or later", extra=read_host().cuda_extra
            )


def read_gpu(device: int = 0) -> Gpu:
    """A GPU by its number. Makes no context on it.

    Raises:
        MissingDependencyError: no cuda-core, or one that is too old.
        CudaError: cuda-core does not load; no driver, one too old for cuda-bindings, or no such GPU.
    """
    core, driver, bindings = load_api()
    try:
        version = _checked("cuDriverGetVersion", driver.cuDriverGetVersion())
        _check_driver(version, bindings)
        _checked("cuInit", driver.cuInit(0))
        check_ordinal(device, _checked("cuDeviceGetCount", driver.cuDeviceGetCount()))
        gpu = core.Device(device)
        major, minor = gpu.compute_capability
        return Gpu(gpu.name, f"{major}.{minor}", _version_text(version), bool(gpu.properties.integrated))
    except RuntimeError as error:  # the bindings' own, when they find no libcuda
        raise CudaError(
            f"there is no NVIDIA driver here, or its library is not found ({error}); install it, or let the container "
            f"see it ({ANY_DOCKER_RUN})"
        ) from error


def open_cuda(device: int = 0) -> CoreCuda:
    """Open a GPU.

    Raises:
        As `read_gpu`.
    """
    return CoreCuda(read_gpu(device), device)


def _check_driver(version: int, bindings: str) -> None:
    needed, major = version_numbers(bindings)[0], version // 1000
    if major < needed:
        packages = f", or take the packages for CUDA {major}: {extra_command(f'cuda{major}')}"
        raise CudaError(
            f"the NVIDIA driver here runs CUDA up to {_version_text(version)}, and cuda-bindings {bindings} need one "
            f"for CUDA {needed}; update the driver{packages if major in OLDEST_BINDINGS else ''}"
        )


def _version_text(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def _checked(name: str, answer: tuple[Any, ...]) -> Any:
    if answer[0] != 0:
        raise cuda_failure(name, answer[0].name)
    return _value(answer)


def _value(answer: tuple[Any, ...]) -> Any:
    """Of an answer of the driver's bindings: (status, values…)."""
    return answer[1] if len(answer) == 2 else answer[1:]


class CoreCuda(Cuda):
    """A GPU through cuda-python. Leaves its context current in the threads that use it, as PyTorch does."""

    has_graphs = True

    def __init__(self, gpu: Gpu, ordinal: int) -> None:
        self.gpu = gpu
        self.ordinal = ordinal
        self.core, self.driver, _ = load_api()
        self._lost = False
        self._closed = False
        # Makes the context and keeps it until the process ends, as PyTorch does; cuda.core keeps it for a thread alone.
        _checked("cuDevicePrimaryCtxRetain", self.driver.cuDevicePrimaryCtxRetain(ordinal))

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function of cuda.core or of the driver in this GPU's context.

        Raises:
            CudaError: it failed; see its kinds.
        """
        if self._closed:
            raise CudaError("this GPU was closed; open it again with open_cuda")
        return self._call(function, *arguments)

    def free(self, function: Callable[..., Any], *arguments: Any) -> None:
        """As `call`, for what frees: also after `close`, and in silence once the context, and all in it, is lost."""
        if not self._lost:
            self._call(function, *arguments)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        # Not str(function): that of cuda.core's get_kernel loads the kernels, and fails with them.
        name = getattr(function, "__qualname__", type(function).__name__)
        try:
            self.core.Device(self.ordinal).set_current()  # of this thread
            answer = function(*arguments)
        except Exception as error:
            status = STATUS.search(str(error))  # cuda.core has it in the text alone
            if status is None and not isinstance(error, RuntimeError):  # such as a function that the driver has not
                raise
            raise self._failure(name, status[0] if status else str(error)) from error
        if not (isinstance(answer, tuple) and isinstance(answer[0], self.driver.CUresult)):
            return answer
        if answer[0] != 0:
            raise self._failure(name, answer[0].name)
        return _value(answer)

    def _failure(self, name: str, status: str) -> CudaError:
        failure = cuda_failure(name, status)
        self._lost |= failure.fatal
        return failure

    def memory(self, size: int) -> Memory:
        return CoreMemory(self, size)

    def host_memory(self, size: int, *, mapped: bool = False) -> HostMemory:
        return CoreHostMemory(self, size, mapped)

    def stream(self) -> Stream:
        return CoreStream(self)

    def event(self, *, timing: bool = False) -> Event:
        return CoreEvent(self, timing)

    def module(self, source: str, kernels: Sequence[str]) -> dict[str, Any]:
        code = compile_kernels(source, self.gpu.compute_capability)
        objects = self.core.ObjectCode
        loaded = self.call(objects.from_cubin if is_machine_code(code) else objects.from_ptx, code)
        return {name: self.call(loaded.get_kernel, name) for name in kernels}

    def device_of(self, address: int) -> int | None:
        ordinal = self.driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
        return int(self.call(self.driver.cuPointerGetAttribute, ordinal, address))

    def synchronize(self) -> None:
        self.call(self.driver.cuCtxSynchronize)

    def free_memory(self) -> tuple[int, int]:
        free, total = self.call(self.driver.cuMemGetInfo)
        return free, total

    def close(self) -> None:
        self._closed = True  # the primary context is not ours to end


class CoreMemory(Memory):
    def __init__(self, cuda: CoreCuda, size: int) -> None:
        self._cuda = cuda
        self.size = size
        self.address = int(cuda.call(cuda.driver.cuMemAlloc, size))

    def close(self) -> None:
        address, self.address = self.address, 0
        if address:
            self._cuda.free(self._cuda.driver.cuMemFree, address)


class CoreHostMemory(HostMemory):
    def __init__(self, cuda: CoreCuda, size: int, mapped: bool) -> None:
        self._cuda = cuda
        driver = cuda.driver
        flags = driver.CU_MEMHOSTALLOC_PORTABLE | (driver.CU_MEMHOSTALLOC_DEVICEMAP if mapped else 0)
        self._pointer = int(cuda.call(driver.cuMemHostAlloc, size, flags))
        self.array = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(self._pointer))
        self.address = self._pointer
        if mapped:
            self.address = int(cuda.call(driver.cuMemHostGetDevicePointer, self._pointer, 0))

    def close(self) -> None:
        pointer, self._pointer = self._pointer, 0
        if pointer:
            self.array = np.empty(0, np.uint8)
            self._cuda.free(self._cuda.driver.cuMemFreeHost, pointer)


class CoreEvent(Event):
    def __init__(self, cuda: CoreCuda, timing: bool) -> None:
        self._cuda = cuda
        options = cuda.core.EventOptions(timing_enabled=timing, blocking_sync=True)
        self.native = cuda.call(cuda.core.Device(cuda.ordinal).create_event, options)

    def synchronize(self) -> None:
        self._cuda.call(self.native.sync)

    def elapsed_ms(self, earlier: Event) -> float:
        assert isinstance(earlier, CoreEvent)
        elapsed = self._cuda.driver.cuEventElapsedTime
        return float(self._cuda.call(elapsed, earlier.native.handle, self.native.handle))

    def close(self) -> None:
        self._cuda.free(self.native.close)


class CoreStream(Stream):
    def __init__(self, cuda: CoreCuda) -> None:
        self._cuda = cuda
        options = cuda.core.StreamOptions(nonblocking=True)
        self._stream = cuda.call(cuda.core.Device(cuda.ordinal).create_stream, None, options)
        self.handle = int(self._stream.handle)

    def copy(self, target: int, source: int, size: int) -> None:
        self._cuda.call(self._cuda.driver.cuMemcpyAsync, target, source, size, self.handle)

    def copy_rows(
        self, target: int, target_pitch: int, source: int, source_pitch: int, row_bytes: int, rows: int
    ) -> None:
        driver = self._cuda.driver
        copy = driver.CUDA_MEMCPY2D()
        copy.srcMemoryType = copy.dstMemoryType = driver.CUmemorytype.CU_MEMORYTYPE_UNIFIED  # the addresses tell
        copy.srcDevice, copy.srcPitch = source, source_pitch
        copy.dstDevice, copy.dstPitch = target, target_pitch
        copy.WidthInBytes, copy.Height = row_bytes, rows
        self._cuda.call(driver.cuMemcpy2DAsync, copy, self.handle)

    def fill(self, target: int, byte: int, size: int) -> None:
        self._cuda.call(self._cuda.driver.cuMemsetD8Async, target, byte, size, self.handle)

    def launch(
        self,
        kernel: Any,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        arguments: Sequence[np.generic],
        *,
        shared_bytes: int = 0,
    ) -> None:
        core, driver = self._cuda.core, self._cuda.driver
        if shared_bytes > DEFAULT_SHARED_BYTES:
            attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            self._cuda.call(driver.cuKernelSetAttribute, attribute, shared_bytes, kernel.handle, self._cuda.ordinal)
        config = core.LaunchConfig(grid=grid, block=block, shmem_size=shared_bytes)
        self._cuda.call(core.launch, self._stream, config, kernel, *arguments)

    def record(self, event: Event) -> None:
        assert isinstance(event, CoreEvent)
        self._cuda.call(self._stream.record, event.native)

    def wait(self, event: Event) -> None:
        assert isinstance(event, CoreEvent)
        self._cuda.call(self._stream.wait, event.native)

    def wait_stream(self, handle: int) -> None:
        with self._cuda.event() as event:
            assert isinstance(event, CoreEvent)
            self._cuda.call(self._cuda.driver.cuEventRecord, event.native.handle, handle)
            self.wait(event)

    def synchronize(self) -> None:
        self._cuda.call(self._stream.sync)

    def begin_capture(self) -> None:
        # Other threads go on as before; this one may do nothing that a graph cannot hold.
        mode = self._cuda.driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._cuda.call(self._cuda.driver.cuStreamBeginCapture, self.handle, mode)

    def end_capture(self) -> Graph:
        driver = self._cuda.driver
        # Not cuda.core's GraphBuilder: it does not end a capture that has failed.
        graph = self._cuda.call(driver.cuStreamEndCapture, self.handle)
        try:
            return CoreGraph(self._cuda, self._cuda.call(driver.cuGraphInstantiate, graph, 0))
        finally:
            self._cuda.free(driver.cuGraphDestroy, graph)

    def close(self) -> None:
        self._cuda.free(self._stream.close)


class CoreGraph(Graph):
    def __init__(self, cuda: CoreCuda, executable: Any) -> None:
        self._cuda = cuda
        self._executable = executable

    def launch(self, stream: Stream) -> None:
        self._cuda.call(self._cuda.driver.cuGraphLaunch, self._executable, stream.handle)

    def close(self) -> None:
        executable, self._executable = self._executable, None
        if executable is not None:
            self._cuda.free(self._cuda.driver.cuGraphExecDestroy, executable)
