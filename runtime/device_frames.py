"""`DeviceFrame`: a frame that is on the GPU already, taken from another library's array without a copy.

PyTorch, CuPy, PyCUDA and jetson-utils offer such arrays by DLPack (https://dmlc.github.io/dlpack/latest/) or by the
CUDA array interface (https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ssd_edge.images import ImageError
from ssd_edge.runtime.cuda import Cuda, CudaError, Stream

DLPACK_CUDA, DLPACK_CUDA_MANAGED = 2, 13
DLPACK_UINT8 = (1, 8, 1)  # code of unsigned integers, bits, lanes
CHANNELS = 3


@dataclass(frozen=True)
class DeviceFrame:
    """A frame on the GPU: uint8 [height, width, 3] BGR, whose rows lie `pitch` bytes apart.

    Attributes:
        address: of its first byte.
        pitch: bytes from row to row.
        device: number of its GPU.
        owner: what keeps the memory; to be held until the work on the frame is done.
    """

    address: int
    pitch: int
    height: int
    width: int
    device: int
    owner: Any


def is_device_frame(frame: Any) -> bool:
    """Whether an object offers memory of a GPU."""
    return _has_cuda_dlpack(frame) or hasattr(frame, "__cuda_array_interface__")


def device_frame(frame: Any, cuda: Cuda, stream: Stream) -> DeviceFrame:
    """Take a frame that is on the GPU. What `stream` does from here on waits for the work that makes the frame.

    Args:
        frame: uint8 [H, W, 3] BGR with `__dlpack__` or `__cuda_array_interface__`; its rows may lie any pitch apart.

    Raises:
        ImageError: another type or shape, no pixels, pixels that are not side by side, memory of the processor, or of
            another GPU.
    """
    if _has_cuda_dlpack(frame):
        return _from_dlpack(frame, cuda, stream)
    if hasattr(frame, "__cuda_array_interface__"):
        return _from_array_interface(frame, cuda, stream)
    raise ImageError(
        f"a {type(frame).__name__} in the processor's memory, not on a GPU; give it as a NumPy array, such as "
        "numpy.asarray(frame)"
    )


def _has_cuda_dlpack(frame: Any) -> bool:
    return hasattr(frame, "__dlpack_device__") and frame.__dlpack_device__()[0] in (DLPACK_CUDA, DLPACK_CUDA_MANAGED)


def _from_array_interface(frame: Any, cuda: Cuda, stream: Stream) -> DeviceFrame:
    interface = frame.__cuda_array_interface__
    kind, address = str(interface["typestr"]), int(interface["data"][0])
    shape = tuple(int(length) for length in interface["shape"])
    height, width, pitch = _check_layout(shape, interface.get("strides"), kind[1:] == "u1", kind)
    try:
        device = cuda.device_of(address)
    except CudaError as error:
        raise ImageError(f"a {type(frame).__name__} whose memory is on no GPU that CUDA knows: {error}") from error
    _check_device(cuda.ordinal if device is None else device, cuda)
    if interface.get("stream") is not None:  # 1 and 2, the default streams, are handles too
        stream.wait_stream(int(interface["stream"]))
    return DeviceFrame(address, pitch, height, width, cuda.ordinal, frame)


def _from_dlpack(frame: Any, cuda: Cuda, stream: Stream) -> DeviceFrame:
    _check_device(frame.__dlpack_device__()[1], cuda)
    try:
        try:
            capsule = frame.__dlpack__(stream=stream.handle, max_version=(1, 0))  # which can tell of read-only memory
        except TypeError:  # from before version 1.0
            capsule = frame.__dlpack__(stream=stream.handle)
    except (BufferError, RuntimeError) as error:
        raise ImageError(f"a {type(frame).__name__} that does not give its memory: {error}") from error
    tensor = _tensor_of(capsule)
    kind, shape = (tensor.code, tensor.bits, tensor.lanes), tuple(tensor.shape[: tensor.ndim])
    strides = tuple(tensor.strides[: tensor.ndim]) if tensor.strides else None  # in elements, which are bytes
    height, width, pitch = _check_layout(shape, strides, kind == DLPACK_UINT8, f"{kind} (DLPack)")
    address = (tensor.data or 0) + tensor.byte_offset
    return DeviceFrame(address, pitch, height, width, cuda.ordinal, capsule)  # the capsule frees it at its end


def _check_device(device: int, cuda: Cuda) -> None:
    if device != cuda.ordinal:
        raise ImageError(
            f"a frame on GPU {device}, and the detector runs on GPU {cuda.ordinal}; move it there, such as "
            f"frame.to('cuda:{cuda.ordinal}')"
        )


def _check_layout(
    shape: tuple[int, ...], strides: Sequence[int] | None, is_uint8: bool, kind: str
) -> tuple[int, int, int]:
    """Height, width and pitch.

    Args:
        strides: in bytes; None: all values lie side by side.
    """
    if not is_uint8 or len(shape) != 3 or shape[2] != CHANNELS or 0 in shape:
        raise ImageError(
            f"a frame on the GPU of type {kind} and shape {list(shape)}; expected uint8 [height, width, 3] in BGR with "
            "at least one pixel"
        )
    height, width, _ = shape
    row_bytes = width * CHANNELS
    pitch, pixel, channel = strides or (row_bytes, CHANNELS, 1)
    if channel != 1 or (pixel != CHANNELS and width > 1) or (pitch < row_bytes and height > 1):
        raise ImageError(
            f"a frame on the GPU of shape {list(shape)} with strides of {pitch}, {pixel} and {channel} bytes; expected "
            f"pixels side by side (3 and 1) in rows at least {row_bytes} apart: make it contiguous, such as "
            "frame.contiguous() or cupy.ascontiguousarray(frame)"
        )
    return height, width, max(pitch, row_bytes)


class _Tensor(ctypes.Structure):
    """`DLTensor` of dlpack.h."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Versioned(ctypes.Structure):
    """`DLManagedTensorVersioned`; `DLManagedTensor`, its older form, begins with the tensor."""

    _fields_ = (
        ("version", ctypes.c_uint32 * 2),
        ("manager_context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


_capsule_name = ctypes.pythonapi.PyCapsule_GetName
_capsule_name.restype, _capsule_name.argtypes = ctypes.c_char_p, (ctypes.py_object,)
_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype, _capsule_pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)


def _tensor_of(capsule: Any) -> _Tensor:
    name = _capsule_name(capsule)
    pointer = _capsule_pointer(capsule, name)
    if name == b"dltensor_versioned":
        managed = _Versioned.from_address(pointer)
        if managed.version[0] != 1:
            raise ImageError(f"a frame by DLPack {managed.version[0]}; expected version 0 or 1")
        tensor: _Tensor = managed.tensor
        return tensor
    if name == b"dltensor":
        return _Tensor.from_address(pointer)
    raise ImageError(f"a DLPack capsule named {name!r}; expected one that nothing has consumed yet")
