"""NVML: what an NVIDIA GPU tells of its power and memory. Needs nvidia-ml-py, of the extras `cuda12` and `cuda13`.

https://docs.nvidia.com/deploy/nvml-api/
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any


class NvmlError(OSError):
    """NVML does not tell this, or not now."""


class NvmlDevice:
    """One GPU. Its methods raise `NvmlError` where the driver or the GPU does not tell."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self.name = str(_call("nvmlDeviceGetName", handle))

    def energy_j(self) -> float:
        """Energy since the driver was loaded, in joules; Volta and newer."""
        return int(_call("nvmlDeviceGetTotalEnergyConsumption", self._handle)) / 1e3

    def power_w(self) -> float:
        """Power of the board, in watts."""
        return int(_call("nvmlDeviceGetPowerUsage", self._handle)) / 1e3

    def used_bytes(self) -> int:
        """Memory in use on the GPU, of all processes together."""
        return int(_call("nvmlDeviceGetMemoryInfo", self._handle).used)

    def driver_version(self) -> str:
        """Such as 580.65.06."""
        return str(_call("nvmlSystemGetDriverVersion"))


def open_nvml(index: int = 0) -> NvmlDevice | None:
    """The GPU that CUDA numbers `index`, among those that CUDA_VISIBLE_DEVICES leaves; None without one.

    CUDA may order GPUs of different kinds by speed, NVML has them by their place on the bus: with several kinds set
    CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """
    try:
        _call("nvmlInit")
        return NvmlDevice(_handle(index))
    # No package, no driver, no GPU, or none that CUDA may see.
    except (ModuleNotFoundError, NvmlError, ValueError, IndexError):
        return None


def has_nvml_package() -> bool:
    """Whether nvidia-ml-py is installed."""
    return find_spec("pynvml") is not None


def _handle(index: int) -> Any:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    name = str(index) if visible is None else visible.split(",")[index].strip()
    if name.startswith(("GPU-", "MIG-")):
        return _call("nvmlDeviceGetHandleByUUID", name)
    return _call("nvmlDeviceGetHandleByIndex", int(name))


def _call(function: str, *arguments: Any) -> Any:
    """Every call goes through here.

    Raises:
        ModuleNotFoundError: nvidia-ml-py is not installed.
        NvmlError: no driver, a driver without this function, or one that answers with an error.
    """
    import pynvml  # not at the top: the base install does without it

    try:
        return getattr(pynvml, function)(*arguments)
    except pynvml.NVMLError as error:
        raise NvmlError(f"{function}: {error}") from error
