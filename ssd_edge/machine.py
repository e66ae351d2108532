"""The machine and the versions that figures were measured on."""

from __future__ import annotations

import platform
from pathlib import Path

from ssd_edge.cpus import usable_cpus
from ssd_edge.nvml import open_nvml
from ssd_edge.packages import installed_version

PACKAGES = (
    *("ssd-edge", "numpy", "opencv-python", "onnxruntime", "onnxruntime-gpu", "torch", "torchvision"),
    *("openvino", "tensorrt", "tensorrt-rtx-cu13-bindings"),
)
# What decides how fast float32 and int8 are: x86's and Arm's names in /proc/cpuinfo.
INSTRUCTIONS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimd", "asimddp", "i8mm", "sve")


def describe_machine(root: Path = Path("/")) -> dict[str, object]:
    """Processor, cores that this process may use, board and GPU where there is one, Python and package versions.

    Args:
        root: of the file system, for tests.
    """
    nvml = open_nvml()
    machine = {
        "processor": _processor(root),
        "instructions": _instructions(root),
        "cores": usable_cpus(root),
        "board": _text(root / "proc/device-tree/model"),  # of a Jetson and the like
        "gpu": nvml.name if nvml else None,
        "gpu_driver": nvml.driver_version() if nvml else None,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: installed_version(name) for name in PACKAGES},
    }
    return {name: value for name, value in machine.items() if value is not None}


def _processor(root: Path) -> str:
    lines = (_text(root / "proc/cpuinfo") or "").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _instructions(root: Path) -> str | None:
    lines = (_text(root / "proc/cpuinfo") or "").splitlines()
    flags = {flag for line in lines if line.lower().startswith(("flags", "features")) for flag in line.split()}
    return " ".join(name for name in INSTRUCTIONS if name in flags) or None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip("\0\n") or None
    except (OSError, ValueError):
        return None
