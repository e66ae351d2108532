"""`HostCuda`: the interface of runtime/cuda/base.py on the processor, for tests where there is no GPU.

Memory is memory, streams run everything at once, captured work is a list of calls. Kernels are the very source that
NVRTC compiles for a GPU, compiled by g++ through cuda_shim.h. What a GPU would forgive, or punish later, is an error
here: arguments of the wrong type, work on a closed stream, writes behind the end of memory.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import shutil
import subprocess
import tempfile
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssd_edge.runtime.cuda.base import Cuda, Event, Gpu, Graph, HostMemory, Memory, Stream
from ssd_edge.runtime.cuda.errors import CudaError, CudaMemoryError

SHIM = Path(__file__).with_name("cuda_shim.h")
ALIGNMENT = 256  # of cudaMalloc
ORDERS = FORWARD, REVERSE, SHUFFLED = 0, 1, 7  # of `HostCuda`
GARBAGE = 0xA5
DEFAULT_STREAMS = 1, 2  # CU_STREAM_LEGACY, CU_STREAM_PER_THREAD
# __fmul_rn and so on are not to be fused; shared memory holds what is put there; longjmp crosses stacks.
FLAGS = (
    *("-std=c++17", "-O2", "-shared", "-fPIC", "-w"),
    *("-ffp-contract=off", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE"),
)


@dataclass(frozen=True)
class HostKernel:
    """A compiled kernel: its launcher and the NumPy types of its parameters, such as `u8`."""

    name: str
    launch: Any
    types: tuple[str, ...]


class HostCuda(Cuda):
    """A `Cuda` without a GPU. Skips the test where g++ is absent, once a kernel is to be compiled.

    Args:
        order: in which the threads of a block take turns: 0 forward, 1 reverse, else shuffled with this seed.
        total_memory: bytes; more raises `CudaMemoryError`, as a GPU's end does.

    Attributes:
        allocated: bytes of `Memory` and `HostMemory` that are not closed yet.
        readable: (first, end) addresses of the memory that kernels may read by `__ldg`; empty: any.
        pinned: the pinned memory that is still referred to.
    """

    has_graphs = True

    def __init__(self, *, order: int = 0, total_memory: int = 1 << 32, integrated: bool = False) -> None:
        self.gpu = Gpu("host", "0.0", "0.0", integrated)
        self.order = order
        self.total_memory = total_memory
        self.allocated = 0
        self.readable: list[tuple[int, int]] = []
        self.streams: weakref.WeakSet[HostStream] = weakref.WeakSet()
        self.pinned: weakref.WeakSet[PinnedBuffer] = weakref.WeakSet()

    def memory(self, size: int) -> Memory:
        return _HostBuffer(self, size)

    def host_memory(self, size: int, *, mapped: bool = False) -> PinnedBuffer:
        memory = PinnedBuffer(self, size, mapped)
        self.pinned.add(memory)
        return memory

    def stream(self) -> HostStream:
        return HostStream(self)

    def event(self, *, timing: bool = False) -> Event:
        return HostEvent(timing)

    def module(self, source: str, kernels: Sequence[str]) -> dict[str, Any]:
        library = ctypes.PyDLL(str(_compiled(source, tuple(kernels))))  # holds the GIL: the shim has one set of fibres
        return {name: _kernel(library, name) for name in kernels}

    def synchronize(self) -> None:
        for stream in self.streams:
            stream.synchronize()

    def free_memory(self) -> tuple[int, int]:
        return self.total_memory - self.allocated, self.total_memory

    def close(self) -> None:
        pass


class _Allocation:
    """Aligned bytes full of garbage with a guard behind them."""

    def __init__(self, cuda: HostCuda, size: int) -> None:
        if size < 1:
            raise CudaError(f"memory of {size} bytes; expected at least 1")
        if size > cuda.free_memory()[0]:
            raise CudaMemoryError(f"{size} bytes asked for, {cuda.free_memory()[0]} free")
        cuda.allocated += size
        self._cuda, self._size = cuda, size
        whole = np.full(size + 2 * ALIGNMENT, GARBAGE, np.uint8)
        self.bytes: Any = whole[-whole.ctypes.data % ALIGNMENT :][: size + ALIGNMENT]

    def free(self) -> None:
        if self.bytes is not None:
            guard, self.bytes = self.bytes[self._size :], None
            self._cuda.allocated -= self._size
            if not (guard == GARBAGE).all():
                raise CudaError(f"something wrote behind the end of {self._size} bytes")


class _HostBuffer(Memory):
    def __init__(self, cuda: HostCuda, size: int) -> None:
        self._allocation = _Allocation(cuda, size)
        self.address, self.size = self._allocation.bytes.ctypes.data, size

    def close(self) -> None:
        self._allocation.free()


class PinnedBuffer(HostMemory):
    def __init__(self, cuda: HostCuda, size: int, mapped: bool) -> None:
        self._allocation = _Allocation(cuda, size)
        self.mapped = mapped
        self.array = self._allocation.bytes[:size]
        self.address = self.array.ctypes.data

    def close(self) -> None:
        self._allocation.free()


class HostEvent(Event):
    def __init__(self, timing: bool) -> None:
        self._timing = timing
        self.recorded: float | None = None  # seconds

    def synchronize(self) -> None:
        pass

    def elapsed_ms(self, earlier: Event) -> float:
        assert isinstance(earlier, HostEvent)
        if not (self._timing and earlier._timing) or self.recorded is None or earlier.recorded is None:
            raise CudaError("elapsed_ms needs two recorded events that were made with timing")
        return 1e3 * (self.recorded - earlier.recorded)

    def close(self) -> None:
        pass


class HostGraph(Graph):
    def __init__(self, calls: list[Callable[[], None]]) -> None:
        self.calls = calls
        self.running = 0

    def launch(self, stream: Stream) -> None:
        assert isinstance(stream, HostStream)
        self.running += 1
        for call in (*self.calls, self._done):
            stream.put(call)

    def _done(self) -> None:
        self.running -= 1

    def close(self) -> None:
        if self.running:
            raise CudaError("a graph was freed before its work was done")
        self.calls = []


class HostStream(Stream):
    """Runs every call at once, or writes it down while captured."""

    _handles = max(DEFAULT_STREAMS)

    def __init__(self, cuda: HostCuda) -> None:
        HostStream._handles += 1
        self.handle = HostStream._handles
        self._cuda = cuda
        self.captured: list[Callable[[], None]] | None = None
        self.closed = False
        cuda.streams.add(self)

    def copy(self, target: int, source: int, size: int) -> None:
        self.put(lambda: ctypes.memmove(target, source, size))

    def copy_rows(
        self, target: int, target_pitch: int, source: int, source_pitch: int, row_bytes: int, rows: int
    ) -> None:
        if row_bytes > min(target_pitch, source_pitch):
            raise CudaError(f"rows of {row_bytes} bytes at pitches of {source_pitch} and {target_pitch}")

        def copy() -> None:
            for row in range(rows):
                ctypes.memmove(target + row * target_pitch, source + row * source_pitch, row_bytes)

        self.put(copy)

    def fill(self, target: int, byte: int, size: int) -> None:
        self.put(lambda: ctypes.memset(target, byte, size))

    def launch(
        self,
        kernel: Any,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        arguments: Sequence[np.generic],
        *,
        shared_bytes: int = 0,
    ) -> None:
        types = tuple(f"{value.dtype.kind}{value.dtype.itemsize}" for value in arguments)
        if types != kernel.types:
            raise CudaError(f"{kernel.name} takes {kernel.types}, got {types}")
        # The limits of every GPU since compute capability 3.0; an empty grid is an error too.
        limits = ((grid, (2**31 - 1, 65535, 65535)), (block, (1024, 1024, 64)))
        if any(not 1 <= size <= limit for sizes, most in limits for size, limit in zip(sizes, most, strict=True)):
            raise CudaError(f"{kernel.name}: no GPU has a grid of {grid} blocks of {block} threads")
        if np.prod(block) > 1024:
            raise CudaError(f"{kernel.name}: {block} is more than 1024 threads a block")
        values = [np.array(value) for value in arguments]
        addresses = (ctypes.c_void_p * len(values))(*[value.ctypes.data for value in values])

        def run(_values: Any = values) -> None:
            sizes = ((ctypes.c_uint * 3)(*grid), (ctypes.c_uint * 3)(*block))
            limits = [address for limits in self._cuda.readable for address in limits]
            ranges = (ctypes.c_size_t * len(limits))(*limits)
            where = shared_bytes, addresses, self._cuda.order, ranges, len(limits) // 2
            problem = kernel.launch(*sizes, *where)
            if problem:
                raise CudaError(f"{kernel.name}: {problem.decode()}")

        self.put(run)

    def record(self, event: Event) -> None:
        assert isinstance(event, HostEvent)
        self.put(lambda: setattr(event, "recorded", time.perf_counter()))

    def wait(self, event: Event) -> None:
        self.put(lambda: None)

    def wait_stream(self, handle: int) -> None:
        if handle in DEFAULT_STREAMS:
            return  # nothing is put off there
        (other,) = (stream for stream in self._cuda.streams if stream.handle == handle)
        event = self._cuda.event()
        other.record(event)
        self.wait(event)

    def synchronize(self) -> None:
        if self.captured is not None:
            raise CudaError("a stream that is captured cannot be waited for")

    def begin_capture(self) -> None:
        if self.captured is not None:
            raise CudaError("the stream is captured already")
        self.captured = []

    def end_capture(self) -> Graph:
        if self.captured is None:
            raise CudaError("the stream is not captured")
        calls, self.captured = self.captured, None
        return HostGraph(calls)

    def close(self) -> None:
        self.closed = True

    def put(self, call: Callable[[], Any]) -> None:
        if self.closed:
            raise CudaError("the stream is closed")
        if self.captured is None:
            call()
        else:
            self.captured.append(call)


@functools.cache
def _compiled(source: str, kernels: tuple[str, ...]) -> Path:
    """The shared object of a source, compiled once: cached in the temporary folder by the hash of all that it is of."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ to compile the CUDA kernels for the host")
    exports = "".join(f"SSD_EDGE_KERNEL({name})\n" for name in kernels)
    text = f'#include "{SHIM}"\n#line 1 "kernels.cu"\n{source}\n{exports}'
    digest = hashlib.sha256("\0".join((text, SHIM.read_text(), compiler, *FLAGS)).encode()).hexdigest()
    folder = Path(tempfile.gettempdir()) / "ssd-edge-host-cuda"
    folder.mkdir(exist_ok=True)
    library = folder / f"{digest}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=folder) as made:  # moved into place whole: tests may run in parallel
            code, built = Path(made) / "kernels.cpp", Path(made) / "kernels.so"
            code.write_text(text)
            command = [compiler, *FLAGS, "-o", str(built), str(code)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=600)
            if done.returncode:
                raise CudaError(f"g++ refuses the kernels: {done.stderr}")
            built.replace(library)
    return library


def _kernel(library: ctypes.PyDLL, name: str) -> HostKernel:
    launch, types = getattr(library, f"launch_{name}"), getattr(library, f"types_{name}")
    launch.restype = types.restype = ctypes.c_char_p
    dimensions = ctypes.POINTER(ctypes.c_uint)
    launch.argtypes = [dimensions, dimensions, ctypes.c_size_t, ctypes.POINTER(ctypes.c_void_p), ctypes.c_uint]
    launch.argtypes += [ctypes.POINTER(ctypes.c_size_t), ctypes.c_uint]
    return HostKernel(name, launch, tuple(types().decode().split()))
