"""CUDA as this package uses it: memory, streams, events, graphs and kernels of one GPU, behind one small interface.

Two implementations: `core` (NVIDIA's cuda-python) and `pycuda`, chosen by `find.open_cuda`. Both work in the GPU's
primary context, which PyTorch and CuPy share, so that addresses pass freely between them. Every call is checked; what
was made is freed by its `close` or at the end of its `with`.

Addresses are plain integers, of the GPU unless said otherwise. All work is put on an explicit stream and returns at
once.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ssd_edge.runtime.cuda.errors import CudaError

Self = TypeVar("Self", bound="Resource")

# Held during a capture, and during what would break one in any thread: another capture's beginning, and a wait for the
# whole GPU.
capturing = threading.Lock()


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

        Breaks a capture in any thread, so the caller holds `capturing`.
        """

    @abstractmethod
    def free_memory(self) -> tuple[int, int]:
        """(free, total) bytes of the GPU's memory."""


def check_ordinal(device: int, count: int) -> None:
    """
    Raises:
        CudaError: there is no GPU of that number.
    """
    if not 0 <= device < count:
        raise CudaError(f"there is no GPU {device}; this machine has {count}, numbered from 0")
