"""An NVML library without a GPU, which the package nvidia-ml-py calls as it calls the driver's."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import pytest

NOT_SUPPORTED = 3


class FakeNvml:
    """Answers as a driver with GPUs does; `lacks` are functions that are not supported."""

    def __init__(self, *lacks: str) -> None:
        self.lacks = lacks
        self.asked: list[Any] = []

    def __getattr__(self, name: str) -> Callable[..., int]:
        import pynvml  # which called

        values: dict[str, Any] = {
            "nvmlDeviceGetTotalEnergyConsumption": ctypes.c_ulonglong(12_345),
            "nvmlDeviceGetPowerUsage": ctypes.c_uint(65_500),
            "nvmlDeviceGetMemoryInfo": pynvml.c_nvmlMemory_t(used=1 << 30),
        }

        def call(*arguments: Any) -> int:
            if name in self.lacks:
                return NOT_SUPPORTED
            if name == "nvmlDeviceGetName":
                arguments[1].value = b"NVIDIA Orin"
            elif name == "nvmlSystemGetDriverVersion":
                arguments[0].value = b"580.65.06"
            elif name in values:
                ctypes.memmove(arguments[1], ctypes.byref(values[name]), ctypes.sizeof(values[name]))
            elif name.startswith("nvmlDeviceGetHandleBy"):
                self.asked.append(arguments[0].value)
            return 0

        return call


def load_nvml(monkeypatch: pytest.MonkeyPatch, load: Callable[[str], Any]) -> None:
    """Let nvidia-ml-py load its library with `load`, as for the first time."""
    pynvml = pytest.importorskip("pynvml")
    monkeypatch.setattr(pynvml, "CDLL", load)
    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
