"""`pycuda.driver` made of plain Python, with the processor's memory for the GPU's.

From its documentation (https://documen.tician.de/pycuda/driver.html) and source. As there, what nothing refers to is
destroyed, and everything that needs a context fails in a thread that has pushed none.
"""

import ctypes
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from types import SimpleNamespace
from typing import Any

import numpy as np


class Error(Exception):
    pass


class LogicError(Error):
    pass


class PycudaMemoryError(Error, MemoryError):
    pass


class CompileError(Error):
    pass


@dataclass
class Script:
    """What the fake shall do, and what was asked of it.

    Attributes:
        fails: the driver's words for functions that fail, by name.
        stacks: contexts pushed and not popped, by thread.
        memory: allocations that were not freed.
        calls: (name, arguments).
    """

    fails: dict[str, str] = field(default_factory=dict)
    stacks: dict[int, int] = field(default_factory=dict)
    memory: list[Any] = field(default_factory=list)
    calls: list[tuple[Any, ...]] = field(default_factory=list)

    def names(self) -> list[str]:
        return [call[0] for call in self.calls]

    def destroyed(self, name: str) -> None:
        has_context = self.stacks.get(threading.get_ident())
        self.calls.append((name if has_context else f"{name} leaked",))  # as PyCUDA does, in silence

    def note(self, name: str, *arguments: Any, needs_context: bool = True) -> None:
        self.calls.append((name, *arguments))
        if needs_context and not self.stacks.get(threading.get_ident()):
            raise LogicError(f"{name} failed: invalid device context - no currently active context?")
        if name in self.fails:
            kind = PycudaMemoryError if self.fails[name] == "out of memory" else LogicError
            raise kind(f"{name} failed: {self.fails[name]}")


def noted(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A method of something that has a script, under the name of the driver's function."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(self: Any, *arguments: Any) -> Any:
            self.script.note(name)  # not the arguments: a stream that is noted is not destroyed
            return function(self, *arguments)

        return call

    return decorate


@dataclass
class Allocation:
    """`DeviceAllocation` and `PagelockedHostAllocation`."""

    script: Script
    content: np.ndarray

    def __int__(self) -> int:
        return self.content.ctypes.data

    @noted("free")
    def free(self) -> None:
        self.script.memory.remove(self)

    def get_device_pointer(self) -> int:
        return int(self)

    __eq__ = object.__eq__


@dataclass
class Event:
    script: Script
    flags: int
    at: int = 0

    @noted("cuEventRecord")
    def record(self, stream: Any) -> "Event":
        self.at = len(self.script.calls)
        return self

    @noted("cuEventSynchronize")
    def synchronize(self) -> "Event":
        return self

    @noted("cuEventElapsedTime")
    def time_since(self, earlier: "Event") -> float:
        return self.at - earlier.at

    def __del__(self) -> None:
        self.script.destroyed("cuEventDestroy")


@dataclass
class Stream:
    script: Script
    flags: int
    handle = 77

    @noted("cuStreamSynchronize")
    def synchronize(self) -> None:
        pass

    @noted("cuStreamWaitEvent")
    def wait_for_event(self, event: Event) -> None:
        pass

    def __del__(self) -> None:
        self.script.destroyed("cuStreamDestroy")


class Memcpy2D:
    """Keeps, as CUDA_MEMCPY2D does, an address of the GPU and one of the processor for each side."""

    script: Script

    def __init__(self) -> None:
        self.kinds = {"src": "", "dst": ""}
        self.device = {"src": 0, "dst": 0}
        self.src_pitch = self.dst_pitch = self.width_in_bytes = self.height = 0

    def set_src_device(self, address: int) -> None:
        self.kinds["src"], self.device["src"] = "device", address

    def set_dst_device(self, address: int) -> None:
        self.kinds["dst"], self.device["dst"] = "device", address

    def set_src_unified(self, buffer: Any) -> None:
        memoryview(buffer)
        self.kinds["src"] = "unified"

    def set_dst_unified(self, buffer: Any) -> None:
        assert not memoryview(buffer).readonly
        self.kinds["dst"] = "unified"

    def __call__(self, stream: Stream) -> None:
        self.script.note("cuMemcpy2DAsync")
        assert self.kinds == {"src": "unified", "dst": "unified"}
        for row in range(self.height):
            target, source = self.device["dst"] + row * self.dst_pitch, self.device["src"] + row * self.src_pitch
            ctypes.memmove(target, source, self.width_in_bytes)


@dataclass
class Function:
    script: Script
    name: str
    format: str = ""

    def prepare(self, types: list[np.dtype[Any]]) -> None:
        self.format = "".join(each.char for each in types)

    def prepared_async_call(self, grid: Any, block: Any, stream: Any, *arguments: Any, shared_size: int = 0) -> None:
        self.script.note("cuLaunchKernel", grid, block, struct.pack(self.format, *arguments), shared_size)


class Context:
    script: Script

    def push(self) -> None:
        self.script.stacks[threading.get_ident()] = self.script.stacks.get(threading.get_ident(), 0) + 1

    @classmethod
    def pop(cls) -> None:
        cls.script.stacks[threading.get_ident()] -= 1

    @classmethod
    def synchronize(cls) -> None:
        cls.script.note("cuCtxSynchronize")

    def detach(self) -> None:
        pass


class Device:
    script: Script
    context: type[Context]

    def __init__(self, number: int) -> None:
        self.script.note("cuDeviceGet", number, needs_context=False)

    @staticmethod
    def count() -> int:
        return 1

    def name(self) -> str:
        return "Orin"

    def compute_capability(self) -> tuple[int, int]:
        return 8, 7

    def get_attribute(self, attribute: str) -> int:
        return {"integrated": 1}[attribute]

    def retain_primary_context(self) -> Context:
        self.script.note("cuDevicePrimaryCtxRetain", needs_context=False)
        return self.context()


class Driver:
    """The module."""

    Error, CompileError = Error, CompileError
    device_attribute = SimpleNamespace(INTEGRATED="integrated")
    event_flags = SimpleNamespace(BLOCKING_SYNC=1, DISABLE_TIMING=2)
    host_alloc_flags = SimpleNamespace(PORTABLE=1, DEVICEMAP=2)

    def __init__(self, script: Script) -> None:
        self.script = script
        self.Context = type("Context", (Context,), {"script": script})
        self.Device = type("Device", (Device,), {"script": script, "context": self.Context})
        self.Memcpy2D = type("Memcpy2D", (Memcpy2D,), {"script": script})
        self.Event, self.Stream = self._made(Event), self._made(Stream)

    def _made(self, kind: type[Event] | type[Stream]) -> Callable[[int], Any]:
        def make(flags: int) -> Any:
            self.script.note(f"cu{kind.__name__}Create", flags)
            return kind(self.script, flags)

        return make

    def init(self) -> None:
        self.script.note("cuInit", needs_context=False)

    def get_driver_version(self) -> int:
        return 12060

    def mem_alloc(self, size: int) -> Allocation:
        self.script.note("cuMemAlloc", size)
        allocation = Allocation(self.script, np.full(size, 0xA5, np.uint8))
        self.script.memory.append(allocation)
        return allocation

    def pagelocked_empty(self, size: int, dtype: type[np.uint8], order: str, flags: int) -> Any:
        self.script.note("cuMemHostAlloc", size, flags)
        content = np.full(size, 0xA5, dtype)
        self.script.memory.append(Allocation(self.script, content))
        return SimpleNamespace(base=self.script.memory[-1], ctypes=content.ctypes, tolist=content.tolist)

    def memset_d8_async(self, target: int, byte: int, count: int, stream: Stream) -> None:
        self.script.note("cuMemsetD8Async")
        ctypes.memset(target, byte, count)

    def module_from_buffer(self, code: bytes) -> Any:
        self.script.note("cuModuleLoadDataEx", code)
        return SimpleNamespace(get_function=lambda name: Function(self.script, name))

    def mem_get_info(self) -> tuple[int, int]:
        self.script.note("cuMemGetInfo")
        return 3, 4
