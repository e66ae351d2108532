"""CUDA as this package uses it: memory, streams, events, graphs and kernels of one GPU, behind one small interface.

Two implementations: `cuda_core` (NVIDIA's cuda-python) and `cuda_pycuda`, chosen by `open_cuda`. Both work in the
GPU's primary context, which PyTorch and CuPy share, so that addresses pass freely between them. Every call is checked;
what was made is freed by its `close` or at the end of its `with`.

Addresses are plain integers, of the GPU unless said otherwise. All work is put on an explicit stream and returns at
once.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ssd_edge.errors import MissingDependencyError, SsdEdgeError, UsageError
from ssd_edge.runtime.host.fixes import ANY_DOCKER_RUN

_log = logging.getLogger(__name__)

Self = TypeVar("Self", bound="Resource")

CUDA_VARIABLE = "SSD_EDGE_CUDA"
IMPLEMENTATIONS = {"core": "cuda.core", "pycuda": "pycuda"}  # and the package of each

# Statuses after which a context is lost ("the process must be terminated and relaunched"), as the driver names them and
# as it words them: https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__TYPES.html.
FATAL = {
    "CUDA_ERROR_DEINITIALIZED": "driver shutting down",
    "CUDA_ERROR_ECC_UNCORRECTABLE": "uncorrectable ECC error encountered",
    "CUDA_ERROR_NVLINK_UNCORRECTABLE": "uncorrectable NVLink error detected during the execution",
    "CUDA_ERROR_CONTAINED": "Invalid access of peer GPU memory over nvlink or a hardware error",
    "CUDA_ERROR_ILLEGAL_ADDRESS": "an illegal memory access was encountered",
    "CUDA_ERROR_LAUNCH_TIMEOUT": "the launch timed out and was terminated",
    "CUDA_ERROR_CONTEXT_IS_DESTROYED": "context is destroyed",
    "CUDA_ERROR_ASSERT": "device-side assert triggered",
    "CUDA_ERROR_HARDWARE_STACK_ERROR": "hardware stack error",
    "CUDA_ERROR_ILLEGAL_INSTRUCTION": "an illegal instruction was encountered",
    "CUDA_ERROR_MISALIGNED_ADDRESS": "misaligned address",
    "CUDA_ERROR_INVALID_ADDRESS_SPACE": "operation not supported on global/shared address space",
    "CUDA_ERROR_INVALID_PC": "invalid program counter",
    "CUDA_ERROR_LAUNCH_FAILED": "unspecified launch failure",
    "CUDA_ERROR_TENSOR_MEMORY_LEAK": "tensor memory not completely freed",
    "CUDA_ERROR_MPS_CLIENT_TERMINATED": "the MPS client has been terminated by the server",
    "CUDA_ERROR_EXTERNAL_DEVICE": "an async error has occured in external entity outside of CUDA",
    "CUDA_ERROR_UNKNOWN": "unknown error",
}
# Statuses by which a driver refuses compiled kernels.
REFUSED_KERNELS = {
    "CUDA_ERROR_INVALID_IMAGE": "device kernel image is invalid",
    "CUDA_ERROR_NO_BINARY_FOR_GPU": "no kernel image is available for execution on the device",
    "CUDA_ERROR_INVALID_PTX": "a PTX JIT compilation failed",
    "CUDA_ERROR_UNSUPPORTED_PTX_VERSION": "the provided PTX was compiled with an unsupported toolchain.",
    "CUDA_ERROR_INVALID_SOURCE": "device kernel image is invalid",
}
# What to do about those that have to do with the machine.
REMEDIES = {
    **dict.fromkeys(
        REFUSED_KERNELS.items(),
        "the driver refuses the kernels that NVRTC compiled, as it does when NVRTC is of a newer CUDA than the driver: "
        "install the NVRTC of the driver's CUDA, for CUDA 12.6 (JetPack 6): pip install "
        "'nvidia-cuda-nvrtc-cu12==12.6.*', or update the driver; ssd-edge doctor shows both versions",
    ),
    ("CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"): (
        f"there is no NVIDIA GPU here, or CUDA_VISIBLE_DEVICES or a container hides it ({ANY_DOCKER_RUN})"
    ),
    ("CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "system has unsupported display driver / cuda driver combination"): (
        "the driver's library and its kernel module are of two versions, as after an update: restart the machine"
    ),
    ("CUDA_ERROR_STUB_LIBRARY", "CUDA driver is a stub library"): (
        "libcuda.so is the toolkit's stub: take the toolkit's folder stubs out of LD_LIBRARY_PATH"
    ),
    ("CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA-capable device(s) is/are busy or unavailable"): (
        "another process has the GPU for itself alone; nvidia-smi names it"
    ),
}


@dataclass(frozen=True)
class Gpu:
    """A GPU as CUDA names it.

    Attributes:
        name: such as `Orin` or `NVIDIA GeForce RTX 4090`.
        compute_capability: such as `8.7`.
        cuda_version: the newest CUDA that its driver runs, such as `12.6`.
        integrated: it shares the processor's memory, as a Jetson's does.
    """

    name: str
    compute_capability: str
    cuda_version: str
    integrated: bool = False

    def __str__(self) -> str:
        return f"{self.name} (compute capability {self.compute_capability}, CUDA {self.cuda_version})"


class CudaError(SsdEdgeError):
    """A CUDA call failed. After one that is `fatal` the process can use the GPU no more."""

    fatal = False


class CudaMemoryError(CudaError):
    """There is not enough memory on the GPU, or of pinned memory."""


class CudaFatalError(CudaError):
    """The GPU's context is lost, as by an illegal address or a GPU that went away: only a new process can go on."""

    fatal = True


class Resource(ABC):
    """Something of the GPU that is freed once: a context manager. Closing twice does no harm."""

    @abstractmethod
    def close(self) -> None:
        """Free it."""

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Memory(Resource):
    """Memory on the GPU.

    Attributes:
        address: of its first byte.
        size: bytes.
    """

    address: int
    size: int


class HostMemory(Resource):
    """Pinned memory of the processor, which copies run to and from beside other work.

    Attributes:
        array: uint8 [size], the memory itself; not to be used after `close`.
        address: at which the GPU sees it, where it was made with `mapped`; else that of the processor, for copies.
    """

    array: NDArray[np.uint8]
    address: int


class Event(Resource):
    """A point in a stream's work."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait, without spinning, until the work before it is done."""

    @abstractmethod
    def elapsed_ms(self, earlier: Event) -> float:
        """Milliseconds since an earlier event; both made with `timing`, and both done."""


class Graph(Resource):
    """Work captured from a stream, launched as one."""

    @abstractmethod
    def launch(self, stream: Stream) -> None:
        """Put all of it on a stream."""


class Stream(Resource):
    """Work that the GPU does in order.

    Attributes:
        handle: the `cudaStream_t` as an integer, for TensorRT and PyTorch.
    """

    handle: int

    @abstractmethod
    def copy(self, target: int, source: int, size: int) -> None:
        """Copy bytes, in whatever direction the two addresses say."""

    @abstractmethod
    def copy_rows(
        self, target: int, target_pitch: int, source: int, source_pitch: int, row_bytes: int, rows: int
    ) -> None:
        """Copy rows of bytes that lie a pitch apart on either side."""

    @abstractmethod
    def fill(self, target: int, byte: int, size: int) -> None:
        """Set bytes."""

    @abstractmethod
    def launch(
        self,
        kernel: Any,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        arguments: Sequence[np.generic],
        *,
        shared_bytes: int = 0,
    ) -> None:
        """Run a kernel of a `Cuda.module`.

        Args:
            arguments: NumPy scalars of exactly the types of the kernel's parameters; np.uint64 for a pointer.
            shared_bytes: dynamic shared memory; above 48 KiB the implementation asks the driver for it.
        """

    @abstractmethod
    def record(self, event: Event) -> None:
        """Set an event behind all work so far."""

    @abstractmethod
    def wait(self, event: Event) -> None:
        """Let later work on this stream wait for an event, of any stream."""

    def wait_stream(self, handle: int) -> None:
        """Let later work wait for all work so far on another library's stream, by its `cudaStream_t`."""
        raise NotImplementedError

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until all work is done. Errors of the work show here."""

    @abstractmethod
    def begin_capture(self) -> None:
        """From here on work is written down, not run, until the same thread ends it. Only where `Cuda.has_graphs`."""

    @abstractmethod
    def end_capture(self) -> Graph:
        """What was written down.

        Raises:
            CudaError: the capture failed, as by a call that a graph cannot hold; the stream can be used again.
        """


class Cuda(Resource):
    """One GPU's primary context. To be used from any thread; what is made of it is to be closed before it.

    Attributes:
        gpu: which it is.
        ordinal: its number, from 0.
        has_graphs: streams can be captured.
    """

    gpu: Gpu
    ordinal: int = 0
    has_graphs: bool

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function with this GPU's context current in this thread, as what another library does needs it.

        Raises:
            CudaError: a call of CUDA in it failed.
        """
        raise NotImplementedError

    @abstractmethod
    def memory(self, size: int) -> Memory:
        """Memory on the GPU.

        Raises:
            CudaMemoryError: there is not enough.
        """

    @abstractmethod
    def host_memory(self, size: int, *, mapped: bool = False) -> HostMemory:
        """Pinned memory; `mapped`: the GPU reads and writes it in place, which on a Jetson saves the copy."""

    @abstractmethod
    def stream(self) -> Stream:
        """A stream that waits for no other."""

    @abstractmethod
    def event(self, *, timing: bool = False) -> Event:
        """An event."""

    @abstractmethod
    def module(self, source: str, kernels: Sequence[str]) -> dict[str, Any]:
        """Compile CUDA C++ for this GPU, or take it from the cache on disk; the kernels (`extern "C"`) by name.

        Raises:
            MissingDependencyError: no compiler.
            CudaError: it refuses the source; with its log.
        """

    def device_of(self, address: int) -> int | None:
        """Number of the GPU that holds an address; None where this cannot be told.

        Raises:
            CudaError: no GPU does.
        """
        return None

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until all work in the context is done, other libraries' included.

        Breaks a capture in any thread, so the caller holds `gpu_engine.capturing`.
        """

    @abstractmethod
    def free_memory(self) -> tuple[int, int]:
        """(free, total) bytes of the GPU's memory."""


def open_cuda(device: int = 0) -> Cuda:
    """Open a GPU by its number: with cuda-python where it is installed, else with PyCUDA.

    The environment variable `SSD_EDGE_CUDA`, `core` or `pycuda`, chooses.

    Raises:
        MissingDependencyError: neither is installed, or not the chosen one.
        CudaError: no driver, one too old, or no such GPU.
        UsageError: `SSD_EDGE_CUDA` is something else.
    """
    cuda: Cuda = _implementation().open_cuda(device)
    return cuda


def read_gpu(device: int = 0) -> Gpu:
    """A GPU by its number. Makes no context on it.

    Raises:
        As `open_cuda`.
    """
    gpu: Gpu = _implementation().read_gpu(device)
    return gpu


def find_gpu(device: int = 0) -> Gpu | None:
    """As `read_gpu`; None without a package for CUDA, a driver that fits it, or a GPU."""
    try:
        return read_gpu(device)
    except (CudaError, MissingDependencyError) as error:
        _log.debug("no GPU: %s", error)
        return None


def cuda_failure(call: str, problem: str) -> CudaError:
    """The error for a call that failed.

    Args:
        problem: the name of the status in the driver (`CUDA_ERROR_…`), or the driver's words for it.
    """
    text = f"{call} failed: {problem}"
    if "CUDA_ERROR_OUT_OF_MEMORY" in problem or "out of memory" in problem:
        return CudaMemoryError(
            f"{text}; there is not enough memory: close what else uses the GPU, or take a smaller batch"
        )
    if any(name in problem or words in problem for name, words in FATAL.items()):
        return CudaFatalError(
            f"{text}; the GPU can be used no more by this process: start it again, and if that does not help, see "
            "nvidia-smi and dmesg for what is wrong with the GPU"
        )
    for (name, words), remedy in REMEDIES.items():
        if name in problem or words in problem:
            return CudaError(f"{text}; {remedy}")
    return CudaError(f"{text}; nvidia-smi shows the GPU's state")


def check_ordinal(device: int, count: int) -> None:
    """
    Raises:
        CudaError: there is no GPU of that number.
    """
    if not 0 <= device < count:
        raise CudaError(f"there is no GPU {device}; this machine has {count}, numbered from 0")


def _implementation() -> Any:
    """The module that implements the interface here."""
    chosen = os.environ.get(CUDA_VARIABLE) or next((n for n, p in IMPLEMENTATIONS.items() if is_installed(p)), "core")
    if chosen not in IMPLEMENTATIONS:
        raise UsageError(f"{CUDA_VARIABLE}={chosen}: expected {' or '.join(IMPLEMENTATIONS)}, or nothing")
    return importlib.import_module(f"ssd_edge.runtime.cuda.{chosen}")


def is_installed(package: str) -> bool:
    """Whether a package is there; it is not imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # a parent that is absent, or blocked
        return False
