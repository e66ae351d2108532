"""NVML through ctypes: the driver brings the library, so that no package is needed.

https://docs.nvidia.com/deploy/nvml-api/
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Any

LIBRARY = "libnvidia-ml.so.1"
DRIVER_BYTES = 80  # NVML_SYSTEM_DRIVER_VERSION_BUFFER_SIZE
NAME_BYTES = 96  # NVML_DEVICE_NAME_V2_BUFFER_SIZE
Load = Callable[[str], Any]


class NvmlError(OSError):
    """NVML does not tell this, or not now."""


class _Memory(ctypes.Structure):
    """nvmlMemory_t, bytes."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class NvmlDevice:
    """One GPU. Its methods raise `NvmlError` where the driver or the GPU does not tell."""

    def __init__(self, library: Any, handle: ctypes.c_void_p) -> None:
        self._library = library
        self._handle = handle
        self.name = self._read_name()

    def energy_j(self) -> float:
        """Energy since the driver was loaded, in joules; Volta and newer."""
        millijoules = ctypes.c_ulonglong()
        self._call("nvmlDeviceGetTotalEnergyConsumption", ctypes.byref(millijoules))
        return millijoules.value / 1e3

    def power_w(self) -> float:
        """Power of the board, in watts."""
        milliwatts = ctypes.c_uint()
        self._call("nvmlDeviceGetPowerUsage", ctypes.byref(milliwatts))
        return milliwatts.value / 1e3

    def used_bytes(self) -> int:
        """Memory in use on the GPU, of all processes together."""
        memory = _Memory()
        self._call("nvmlDeviceGetMemoryInfo", ctypes.byref(memory))
        return int(memory.used)

    def driver_version(self) -> str:
        """Such as 580.65.06."""
        text = ctypes.create_string_buffer(DRIVER_BYTES)
        _check(self._library, "nvmlSystemGetDriverVersion", text, ctypes.c_uint(DRIVER_BYTES))
        return text.value.decode(errors="replace")

    def _read_name(self) -> str:
        name = ctypes.create_string_buffer(NAME_BYTES)
        self._call("nvmlDeviceGetName", name, ctypes.c_uint(NAME_BYTES))
        return name.value.decode(errors="replace")

    def _call(self, function: str, *arguments: Any) -> None:
        _check(self._library, function, self._handle, *arguments)


def open_nvml(index: int = 0, *, load: Load = ctypes.CDLL) -> NvmlDevice | None:
    """The GPU that CUDA numbers `index`, among those that CUDA_VISIBLE_DEVICES leaves; None without one.

    CUDA may order GPUs of different kinds by speed, NVML has them by their place on the bus: with several kinds set
    CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """
    try:
        library = load(LIBRARY)
        _check(library, "nvmlInit_v2")
        return NvmlDevice(library, _handle(library, index))
    except (OSError, ValueError, IndexError):  # no driver, no GPU, or none that CUDA may see
        return None


def _handle(library: Any, index: int) -> ctypes.c_void_p:
    handle = ctypes.c_void_p()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    name = str(index) if visible is None else visible.split(",")[index].strip()
    if name.startswith(("GPU-", "MIG-")):
        _check(library, "nvmlDeviceGetHandleByUUID", name.encode(), ctypes.byref(handle))
    else:
        _check(library, "nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(int(name)), ctypes.byref(handle))
    return handle


def _check(library: Any, function: str, *arguments: Any) -> None:
    """Every call goes through here: NVML answers 0 for success.

    Raises:
        NvmlError: another answer, or a library without this function.
    """
    try:
        status = getattr(library, function)(*arguments)
    except AttributeError as error:
        raise NvmlError(f"{function} is not in this driver's NVML") from error
    if status != 0:
        raise NvmlError(f"{function} answers {status}")
