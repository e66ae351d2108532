"""What every benchmark prints and keeps: its figures, behind the machine they were measured on."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("ssd-edge", "numpy", "opencv-python", "onnxruntime", "torch", "torchvision")


def report(figures: dict[str, Any], output: Path | None) -> None:
    """Print the figures as JSON, and write the same to a file where asked for."""
    text = json.dumps({"machine": describe_machine(), **figures}, indent=2, ensure_ascii=False)
    print(text)
    if output:
        output.write_text(text + "\n", encoding="utf-8")


def describe_machine() -> dict[str, object]:
    """Processor, cores, Python and package versions."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: found for name in PACKAGES if (found := _version(name))},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
