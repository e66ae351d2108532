"""`Cuda` on PyCUDA, for machines that have it and not cuda-python. It has no CUDA graphs.

PyCUDA keeps a stack of contexts for each thread and aborts the process where a thread ends with one on it
(https://documen.tician.de/pycuda/driver.html), so every call pushes the primary context and pops it again.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np

from ssd_edge.errors import MissingDependencyError
from ssd_edge.runtime.cuda.base import Cuda, Event, Gpu, Graph, HostMemory, Memory, Stream, check_ordinal
from ssd_edge.runtime.cuda.errors import CudaError, cuda_failure
from ssd_edge.runtime.cuda.kernel_cache import OPTIONS, compile_kernels
from ssd_edge.runtime.host.fixes import extra_command
from ssd_edge.runtime.host.kind import read_host

NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: waits for no work of the default stream
DEFAULT_SHARED_BYTES = 48 * 1024
REINSTALL = "install it again for this CUDA: pip install --force-reinstall --no-binary pycuda pycuda"


def load_driver() -> Any:
    """`pycuda.driver`.

    Raises:
        MissingDependencyError: it is not installed.
        CudaError: it is installed, but does not load.
    """
    try:
        return importlib.import_module("pycuda.driver")
    except ModuleNotFoundError as error:
        if error.name != "pycuda":
            raise CudaError(f"pycuda is installed but lacks {error.name}; {REINSTALL}") from error
        raise MissingDependencyError(
            f"SSD_EDGE_CUDA=pycuda needs the package pycuda, which is not installed ({error}); it is compiled on this "
            "machine, with CUDA's nvcc; cuda-core needs neither (extra cuda13; cuda12 for JetPack 6)",
            extra="pycuda",
        ) from error
    except ImportError as error:
        raise CudaError(f"pycuda is installed but does not load ({error}); {REINSTALL}") from error


def read_gpu(device: int = 0) -> Gpu:
    """A GPU by its number. Makes no context on it.

    Raises:
        MissingDependencyError: no PyCUDA.
        CudaError: no driver that works, or no such GPU.
    """
    driver = load_driver()
    try:
        driver.init()
        check_ordinal(device, driver.Device.count())
        gpu = driver.Device(device)
        major, minor = gpu.compute_capability()
        version = driver.get_driver_version()
        integrated = bool(gpu.get_attribute(driver.device_attribute.INTEGRATED))
    except driver.Error as error:
        raise _failure(error) from error
    return Gpu(gpu.name(), f"{major}.{minor}", f"{version // 1000}.{version % 1000 // 10}", integrated)


def open_cuda(device: int = 0) -> PycudaCuda:
    """Open a GPU.

    Raises:
        As `read_gpu`.
    """
    return PycudaCuda(read_gpu(device), device)


def _failure(error: Exception) -> CudaError:
    call, _, words = str(error).partition(" failed: ")  # "cuMemAlloc failed: out of memory"
    return cuda_failure(call, words or type(error).__name__)


def _cuda_core_command() -> str:
    """The command that installs cuda-core and NVRTC for this machine's driver."""
    return extra_command(read_host().cuda_extra)


def _no_graphs() -> CudaError:
    return CudaError(f"PyCUDA has no CUDA graphs; {_cuda_core_command()}")


@functools.cache
def primary_context(device: int) -> Any:
    """Retained once and for all: other libraries share it, and its last user ends it."""
    context = load_driver().Device(device).retain_primary_context()
    atexit.register(context.detach)
    return context


class PycudaCuda(Cuda):
    """A GPU through PyCUDA."""

    has_graphs = False

    def __init__(self, gpu: Gpu, ordinal: int) -> None:
        self.gpu = gpu
        self.ordinal = ordinal
        self.driver = load_driver()
        self._lost = False
        self._closed = False
        try:
            self._context = primary_context(ordinal)
        except self.driver.Error as error:
            raise _failure(error) from error

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function of PyCUDA in this GPU's context.

        Raises:
            CudaError: it failed; see its kinds.
        """
        if self._closed:
            raise CudaError("this GPU was closed; open it again with open_cuda")
        with self._context_pushed():
            return function(*arguments)

    def free(self, function: Callable[..., Any]) -> None:
        """As `call`, for what frees: also after `close`, and in silence once the context, and all in it, is lost."""
        if not self._lost:
            with self._context_pushed():
                function()

    @contextmanager
    def _context_pushed(self) -> Iterator[None]:
        try:
            self._context.push()
            try:
                yield
            finally:
                self.driver.Context.pop()
        except self.driver.Error as error:
            failure = _failure(error)
            self._lost |= failure.fatal
            raise failure from error

    def memory(self, size: int) -> Memory:
        return PycudaMemory(self, size)

    def host_memory(self, size: int, *, mapped: bool = False) -> HostMemory:
        return PycudaHostMemory(self, size, mapped)

    def stream(self) -> Stream:
        return PycudaStream(self)

    def event(self, *, timing: bool = False) -> Event:
        return PycudaEvent(self, timing)

    def module(self, source: str, kernels: Sequence[str]) -> dict[str, Any]:
        module = self.call(self.driver.module_from_buffer, self._compile(source))
        return {name: self.call(module.get_function, name) for name in kernels}

    def _compile(self, source: str) -> bytes:
        """By NVRTC where cuda-bindings bring it, else by nvcc, which keeps a cache of its own."""
        try:
            return compile_kernels(source, self.gpu.compute_capability)
        except MissingDependencyError:
            nvcc = importlib.import_module("pycuda.compiler").compile
        architecture = "sm_" + self.gpu.compute_capability.replace(".", "")
        try:
            code: bytes = nvcc(source, options=list(OPTIONS), no_extern_c=True, arch=architecture)
        except (self.driver.CompileError, OSError) as error:  # OSError: no nvcc
            raise CudaError(
                f"nvcc does not compile the kernels: {error}; install CUDA's nvcc, or NVRTC, which needs no compiler: "
                f"{_cuda_core_command()}"
            ) from error
        return code

    def synchronize(self) -> None:
        self.call(self.driver.Context.synchronize)

    def free_memory(self) -> tuple[int, int]:
        free, total = self.call(self.driver.mem_get_info)
        return free, total

    def close(self) -> None:
        self._closed = True  # the primary context is not ours to end


class PycudaMemory(Memory):
    def __init__(self, cuda: PycudaCuda, size: int) -> None:
        self._cuda = cuda
        self.size = size
        self._allocation = cuda.call(cuda.driver.mem_alloc, size)
        self.address = int(self._allocation)

    def close(self) -> None:
        allocation, self._allocation, self.address = self._allocation, None, 0
        if allocation is not None:
            self._cuda.free(allocation.free)


class PycudaHostMemory(HostMemory):
    def __init__(self, cuda: PycudaCuda, size: int, mapped: bool) -> None:
        self._cuda = cuda
        flags = cuda.driver.host_alloc_flags.PORTABLE
        if mapped:
            flags |= cuda.driver.host_alloc_flags.DEVICEMAP
        array = cuda.call(cuda.driver.pagelocked_empty, size, np.uint8, "C", flags)
        self.array = array
        self._allocation = array.base
        self.address = int(cuda.call(array.base.get_device_pointer)) if mapped else array.ctypes.data

    def close(self) -> None:
        allocation, self._allocation = self._allocation, None
        if allocation is not None:
            self.array = np.empty(0, np.uint8)
            self._cuda.free(allocation.free)


class PycudaEvent(Event):
    def __init__(self, cuda: PycudaCuda, timing: bool) -> None:
        self._cuda = cuda
        flags = cuda.driver.event_flags
        self.native = cuda.call(cuda.driver.Event, flags.BLOCKING_SYNC | (0 if timing else flags.DISABLE_TIMING))

    def synchronize(self) -> None:
        self._cuda.call(self.native.synchronize)

    def elapsed_ms(self, earlier: Event) -> float:
        assert isinstance(earlier, PycudaEvent)
        return float(self._cuda.call(self.native.time_since, earlier.native))

    def close(self) -> None:
        self._cuda.free(lambda: setattr(self, "native", None))  # PyCUDA frees what nothing refers to


class PycudaStream(Stream):
    def __init__(self, cuda: PycudaCuda) -> None:
        self._cuda = cuda
        self._stream = cuda.call(cuda.driver.Stream, NON_BLOCKING)
        self.handle = int(self._stream.handle)

    def copy(self, target: int, source: int, size: int) -> None:
        self.copy_rows(target, size, source, size, size, 1)

    def copy_rows(
        self, target: int, target_pitch: int, source: int, source_pitch: int, row_bytes: int, rows: int
    ) -> None:
        copy = self._cuda.driver.Memcpy2D()
        # "Unified": the addresses tell the direction. The driver then reads the fields that set_…_device writes, but
        # set_…_unified, which alone sets that kind, writes those of the host: so both, in this order.
        copy.set_src_device(source)
        copy.set_src_unified(_buffer_at(source))
        copy.set_dst_device(target)
        copy.set_dst_unified(_buffer_at(target))
        copy.src_pitch, copy.dst_pitch = source_pitch, target_pitch
        copy.width_in_bytes, copy.height = row_bytes, rows
        self._cuda.call(copy, self._stream)

    def fill(self, target: int, byte: int, size: int) -> None:
        self._cuda.call(self._cuda.driver.memset_d8_async, target, byte, size, self._stream)

    def launch(
        self,
        kernel: Any,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        arguments: Sequence[np.generic],
        *,
        shared_bytes: int = 0,
    ) -> None:
        if shared_bytes > DEFAULT_SHARED_BYTES:
            raise CudaError(
                f"a kernel needs {shared_bytes} bytes of shared memory, and PyCUDA cannot ask for more than "
                f"{DEFAULT_SHARED_BYTES}; {_cuda_core_command()}"
            )
        # Not `kernel(*arguments)`: it packs by a cache in which np.int32(1) and np.float32(1) are the same key.
        kernel.prepare([argument.dtype for argument in arguments])
        launch = functools.partial(kernel.prepared_async_call, shared_size=shared_bytes)
        self._cuda.call(launch, grid, block, self._stream, *arguments)

    def record(self, event: Event) -> None:
        assert isinstance(event, PycudaEvent)
        self._cuda.call(event.native.record, self._stream)

    def wait(self, event: Event) -> None:
        assert isinstance(event, PycudaEvent)
        self._cuda.call(self._stream.wait_for_event, event.native)

    def wait_stream(self, handle: int) -> None:
        self._cuda.call(self._cuda.driver.Context.synchronize)  # PyCUDA does not take another library's stream

    def synchronize(self) -> None:
        self._cuda.call(self._stream.synchronize)

    def begin_capture(self) -> NoReturn:
        raise _no_graphs()

    def end_capture(self) -> Graph:
        raise _no_graphs()

    def close(self) -> None:
        self._cuda.free(lambda: setattr(self, "_stream", None))  # PyCUDA frees what nothing refers to


def _buffer_at(address: int) -> Any:
    """What stands for an address where PyCUDA wants a buffer; nothing reads its content."""
    return ctypes.c_uint8.from_address(address)
