"""DLPack's structures, as in dlpack.h: https://dmlc.github.io/dlpack/latest/c_api.html."""

from __future__ import annotations

import ctypes
from typing import Any

from ssd_edge.images import ImageError

DLPACK_CUDA, DLPACK_CUDA_MANAGED = 2, 13
DLPACK_UINT8 = (1, 8, 1)  # code of unsigned integers, bits, lanes


class DlpackTensor(ctypes.Structure):
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


class DlpackVersioned(ctypes.Structure):
    """`DLManagedTensorVersioned`; `DLManagedTensor`, its older form, begins with the tensor."""

    _fields_ = (
        ("version", ctypes.c_uint32 * 2),
        ("manager_context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", DlpackTensor),
    )


_capsule_name = ctypes.pythonapi.PyCapsule_GetName
_capsule_name.restype, _capsule_name.argtypes = ctypes.c_char_p, (ctypes.py_object,)
_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype, _capsule_pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)


def tensor_of(capsule: Any) -> DlpackTensor:
    """The tensor in a capsule, which keeps its memory.

    Raises:
        ImageError: another version of DLPack, or a capsule that somebody has consumed.
    """
    name = _capsule_name(capsule)
    pointer = _capsule_pointer(capsule, name)
    if name == b"dltensor_versioned":
        managed = DlpackVersioned.from_address(pointer)
        if managed.version[0] != 1:
            raise ImageError(f"a frame by DLPack {managed.version[0]}; expected version 0 or 1")
        tensor: DlpackTensor = managed.tensor
        return tensor
    if name == b"dltensor":
        return DlpackTensor.from_address(pointer)
    raise ImageError(f"a DLPack capsule named {name!r}; expected one that nothing has consumed yet")
