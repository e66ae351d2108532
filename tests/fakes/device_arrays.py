"""Arrays that say that the processor's memory is a GPU's, in the ways of other libraries; and such a GPU."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from ssd_edge.runtime.cuda.base import Stream, capturing
from ssd_edge.runtime.cuda.device_frames import DeviceFrame, device_frame
from ssd_edge.runtime.cuda.dlpack import DLPACK_CUDA, DlpackTensor, DlpackVersioned
from ssd_edge.runtime.cuda.errors import CudaError
from tests.fakes.host_cuda import GARBAGE

CPU, CUDA, CUDA_HOST, MANAGED = 1, 2, 3, 13
UINT8, FLOAT32 = (1, 8, 1), (2, 32, 1)


class FakeStream:
    handle = 77

    def __init__(self) -> None:
        self.waited: list[int] = []

    def wait_stream(self, handle: int) -> None:
        self.waited.append(handle)


class FakeGpu:
    """GPU 0; which GPU holds an address is as the test says."""

    ordinal = 0

    def __init__(self, holder: int | CudaError | None = 0) -> None:
        self.holder = holder
        self.waits = 0

    def synchronize(self) -> None:
        assert capturing.locked(), "it would break the capture of another thread"
        self.waits += 1

    def device_of(self, address: int) -> int | None:
        if isinstance(self.holder, CudaError):
            raise self.holder
        return self.holder


def take(frame: Any, gpu: FakeGpu | None = None, stream: FakeStream | None = None) -> DeviceFrame:
    on: Any = (gpu or FakeGpu(), stream or FakeStream())  # as far as `device_frame` uses them
    return device_frame(frame, *on)


class ByInterface:
    """An array with `__cuda_array_interface__`, version 3."""

    def __init__(self, array: np.ndarray, **changes: Any) -> None:
        self.array = array
        interface = {"shape": array.shape, "typestr": array.dtype.str, "data": (array.ctypes.data, True), "version": 3}
        contiguous = array.flags.c_contiguous
        self.__cuda_array_interface__ = interface | {"strides": None if contiguous else array.strides} | changes


class ByDlpack:
    """An array with `__dlpack__`, whose capsules are made by hand; it counts those that were freed."""

    def __init__(
        self, array: np.ndarray, device: tuple[int, int] = (CUDA, 0), *, kind: Any = None, versioned: bool = True
    ) -> None:
        self.array, self.device, self.versioned = array, device, versioned
        self.kind = kind or {"u": UINT8, "f": FLOAT32}[array.dtype.kind]
        self.version = (1, 1)
        self.offset = 0
        self.error: Exception | None = None
        self.on_given: Callable[[], object] = lambda: None
        self.asked: list[dict[str, Any]] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, **options: Any) -> Any:
        if not self.versioned and "max_version" in options:
            raise TypeError("unexpected keyword argument 'max_version'")
        if self.error:
            raise self.error
        self.asked.append(options)
        self.on_given()
        numbers = ctypes.c_int64 * self.array.ndim
        strides = (
            None if self.array.flags.c_contiguous else numbers(*[s // self.array.itemsize for s in self.array.strides])
        )
        self.numbers = numbers(*self.array.shape), strides
        tensor = DlpackTensor(self.array.ctypes.data - self.offset, *self.device, self.array.ndim, *self.kind)
        tensor.shape, tensor.byte_offset = self.numbers[0], self.offset
        if strides is not None:
            tensor.strides = strides
        if self.versioned:
            self.managed: Any = DlpackVersioned(self.version, None, None, 1, tensor)  # read-only
        else:
            self.managed = tensor
        return new_capsule(ctypes.addressof(self.managed), self.name, None)

    @property
    def name(self) -> bytes:
        return b"dltensor_versioned" if self.versioned else b"dltensor"


new_capsule = ctypes.pythonapi.PyCapsule_New
new_capsule.restype, new_capsule.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)


def frame_of(height: int, width: int, margin: int = 0) -> np.ndarray:
    """uint8 [height, width, 3], a cut of rows that are wider by `margin` pixels."""
    return np.zeros((height, width + margin, 3), np.uint8)[:, :width]


class NoArguments(ByDlpack):
    """The first form of the protocol."""

    def __dlpack__(self) -> Any:  # type: ignore[override]
        return super().__dlpack__()


class NoStream(ByDlpack):
    """A plane of PyAV 18.1 on the GPU (av/video/plane.py): neither versions nor streams."""

    refusal: Exception = NotImplementedError(
        "CUDA stream synchronization is not supported. Pass stream=None and synchronize before calling __dlpack__."
    )

    def __dlpack__(self, *, stream: int | None = None) -> Any:  # type: ignore[override]
        if stream is not None:
            raise self.refusal
        return super().__dlpack__()


class RefusesStream(NoStream):
    refusal = BufferError("stream must be None")


class OddStream(NoStream):
    refusal = ValueError("stream must be one of ours")


class OnGpu:
    """A frame, or a plane of one, that another library has on the GPU, with `gap` bytes between its rows."""

    def __init__(self, frame: np.ndarray, gap: int = 0, kind: str = "|u1") -> None:
        row_bytes = frame[0].size
        self.frame = frame
        self.shape = frame.shape
        self.rows = np.zeros((len(frame), row_bytes + gap), np.uint8)
        self.rows[:, :row_bytes] = frame.reshape(len(frame), -1)
        self.__cuda_array_interface__ = {
            "shape": frame.shape,
            "strides": (row_bytes + gap, *np.empty(frame.shape, np.uint8).strides[1:]),
            "typestr": kind,
            "data": (self.rows.ctypes.data, True),
            "version": 3,
        }


class DecodedPlane:
    """A plane as PyAV's: a decoder's own stream writes it, and it takes no stream of ours."""

    def __init__(self, plane: np.ndarray, decoder: Stream) -> None:
        self.decoded, self.surface = np.ascontiguousarray(plane), np.full_like(plane, GARBAGE)
        decoder.copy(self.surface.ctypes.data, self.decoded.ctypes.data, plane.nbytes)

    def __dlpack_device__(self) -> tuple[int, int]:
        return DLPACK_CUDA, 0

    def __dlpack__(self, *, stream: int | None = None) -> Any:
        if stream is not None:
            raise NotImplementedError("CUDA stream synchronization is not supported. Pass stream=None and synchronize")
        return self.surface.__dlpack__()
