"""cuda.core and the driver's bindings made of plain Python, with the processor's memory for the GPU's.

As the driver does, every call but those that need none fails in a thread without a current context, and once a call has
failed with a status that loses the context, all others fail with it too.
"""

import ctypes
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from functools import wraps
from types import SimpleNamespace
from typing import Any

import numpy as np

from ssd_edge.runtime.cuda.core import Api
from ssd_edge.runtime.cuda.errors import FATAL

NEED_NO_CONTEXT = ("cuInit", "cuDriverGetVersion", "cuDeviceGetCount", "cuDevicePrimaryCtxRetain")


class Status(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_NO_DEVICE = 100
    CUDA_ERROR_INVALID_CONTEXT = 201
    CUDA_ERROR_NOT_FOUND = 500
    CUDA_ERROR_ILLEGAL_ADDRESS = 700
    CUDA_ERROR_SYSTEM_DRIVER_MISMATCH = 803
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901


class CUDAError(Exception):
    """As cuda.core raises it: the status in the text alone."""


@dataclass
class Script:
    """What the fakes shall do, and what was asked of them.

    Attributes:
        fails: status of the functions that fail, by name.
        has_library: whether libcuda is there.
        current: GPU whose context is current, by thread.
        memory: what was allocated and not freed, by address.
        calls: (name, arguments) of all calls but those that make contexts current.
    """

    fails: dict[str, Status] = field(default_factory=dict)
    has_library: bool = True
    version: int = 13000
    gpus: int = 1
    lost: Status | None = None
    current: dict[int, int] = field(default_factory=dict)
    memory: dict[int, Any] = field(default_factory=dict)
    calls: list[tuple[Any, ...]] = field(default_factory=list)

    def status(self, name: str, needs_context: bool = True) -> Status:
        if not self.has_library:
            raise RuntimeError("Failed to dlopen libcuda.so.1")
        status = self.lost or self.fails.get(name, Status.CUDA_SUCCESS)
        if status.name in FATAL:
            self.lost = status
        if needs_context and threading.get_ident() not in self.current:
            return Status.CUDA_ERROR_INVALID_CONTEXT
        return status

    def names(self) -> list[str]:
        return [call[0] for call in self.calls]


def driver_call(function: Callable[..., Any]) -> Callable[..., tuple[Any, ...]]:
    """A function of the driver: (status, values…)."""

    @wraps(function)
    def call(self: Any, *arguments: Any) -> tuple[Any, ...]:
        name = function.__name__
        self.script.calls.append((name, *arguments))
        status = self.script.status(name, name not in NEED_NO_CONTEXT)
        value = function(self, *arguments) if status == 0 else None
        return (status, *value) if isinstance(value, tuple) else (status,) if value is None else (status, value)

    return call


def core_call(function: Callable[..., Any]) -> Callable[..., Any]:
    """A method of cuda.core, which raises."""

    @wraps(function)
    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        self.script.calls.append((function.__qualname__, *arguments))
        status = self.script.status(function.__qualname__)
        if status != 0:
            raise CUDAError(f"{status.name}: as cuda.core explains it")
        return function(self, *arguments, **options)

    return call


class Driver:
    """`cuda.bindings.driver`."""

    CUresult = Status
    CU_MEMHOSTALLOC_PORTABLE, CU_MEMHOSTALLOC_DEVICEMAP = 1, 2
    CUmemorytype = SimpleNamespace(CU_MEMORYTYPE_UNIFIED=4)
    CUfunction_attribute = SimpleNamespace(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=8)
    CUpointer_attribute = SimpleNamespace(CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL=9)
    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1)
    CUDA_MEMCPY2D = SimpleNamespace

    def __init__(self, script: Script) -> None:
        self.script = script

    @driver_call
    def cuDriverGetVersion(self) -> int:
        return self.script.version

    @driver_call
    def cuInit(self, flags: int) -> None:
        assert flags == 0

    @driver_call
    def cuDeviceGetCount(self) -> int:
        return self.script.gpus

    @driver_call
    def cuDevicePrimaryCtxRetain(self, device: int) -> None:
        pass

    @driver_call
    def cuMemGetInfo(self) -> tuple[int, int]:
        return 3, 4

    @driver_call
    def cuMemAlloc(self, size: int) -> int:
        return self._allocate(size)

    @driver_call
    def cuMemFree(self, address: int) -> None:
        del self.script.memory[address]

    @driver_call
    def cuMemHostAlloc(self, size: int, flags: int) -> int:
        return self._allocate(size)

    @driver_call
    def cuMemHostGetDevicePointer(self, pointer: int, flags: int) -> int:
        return pointer

    @driver_call
    def cuMemFreeHost(self, address: int) -> None:
        del self.script.memory[address]

    @driver_call
    def cuMemcpyAsync(self, target: int, source: int, size: int, stream: int) -> None:
        ctypes.memmove(target, source, size)

    @driver_call
    def cuMemcpy2DAsync(self, copy: Any, stream: int) -> None:
        assert copy.srcMemoryType == copy.dstMemoryType == self.CUmemorytype.CU_MEMORYTYPE_UNIFIED
        for row in range(copy.Height):
            target, source = copy.dstDevice + row * copy.dstPitch, copy.srcDevice + row * copy.srcPitch
            ctypes.memmove(target, source, copy.WidthInBytes)

    @driver_call
    def cuMemsetD8Async(self, target: int, byte: int, size: int, stream: int) -> None:
        ctypes.memset(target, byte, size)

    @driver_call
    def cuKernelSetAttribute(self, attribute: int, value: int, kernel: Any, device: int) -> None:
        pass

    @driver_call
    def cuPointerGetAttribute(self, attribute: int, address: int) -> int:
        return 0

    @driver_call
    def cuEventRecord(self, event: int, stream: int) -> None:
        pass

    @driver_call
    def cuEventElapsedTime(self, start: int, end: int) -> float:
        return end - start

    @driver_call
    def cuStreamBeginCapture(self, stream: int, mode: int) -> None:
        pass

    @driver_call
    def cuStreamEndCapture(self, stream: int) -> str:
        return "graph"

    @driver_call
    def cuGraphInstantiate(self, graph: str, flags: int) -> str:
        return "executable"

    @driver_call
    def cuGraphLaunch(self, executable: str, stream: int) -> None:
        pass

    @driver_call
    def cuGraphDestroy(self, graph: str) -> None:
        pass

    @driver_call
    def cuGraphExecDestroy(self, executable: str) -> None:
        pass

    def _allocate(self, size: int) -> int:
        array = np.full(size, 0xA5, np.uint8)
        self.script.memory[array.ctypes.data] = array
        return array.ctypes.data


class Core:
    """`cuda.core`."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.EventOptions = self.StreamOptions = self.LaunchConfig = SimpleNamespace
        self.ObjectCode = SimpleNamespace(from_cubin=lambda code: Code(script), from_ptx=lambda code: Code(script))

    def Device(self, ordinal: int) -> "Device":
        return Device(self.script, ordinal)

    @core_call
    def launch(self, stream: Any, config: Any, kernel: Any, *arguments: Any) -> None:
        pass


@dataclass
class Device:
    script: Script
    ordinal: int
    name = "Orin"
    compute_capability = (8, 7)
    properties = SimpleNamespace(integrated=1)

    def set_current(self) -> None:
        self.script.current[threading.get_ident()] = self.ordinal

    @core_call
    def create_stream(self, adopted: None, options: Any) -> "Stream":
        assert adopted is None
        return Stream(self.script, options)

    @core_call
    def create_event(self, options: Any) -> "Event":
        return Event(self.script, options)


@dataclass
class Event:
    script: Script
    options: Any
    handle: int = 0

    @core_call
    def sync(self) -> None:
        pass

    @core_call
    def close(self) -> None:
        pass


@dataclass
class Stream:
    script: Script
    options: Any
    handle: int = 77

    @core_call
    def record(self, event: Event) -> None:
        event.handle = len(self.script.calls)

    @core_call
    def wait(self, event: Event) -> None:
        pass

    @core_call
    def sync(self) -> None:
        pass

    @core_call
    def close(self) -> None:
        pass


@dataclass
class Code:
    script: Script

    @core_call
    def get_kernel(self, name: str) -> Any:
        return SimpleNamespace(name=name, handle=f"handle of {name}")


def fake_api(script: Script) -> Api:
    return Api(Core(script), Driver(script), "13.0.1")
