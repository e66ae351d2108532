"""What the machine has that bears on the GPU's figures, as JSON. Standard library only.

python -m benchmarks.evidence.versions -o FILE.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.evidence.have import installed

QUERY = "name,driver_version,compute_cap,memory.total,memory.used,mig.mode.current,clocks.sm,clocks.max.sm"
PACKAGES = ("cuda-", "tensorrt", "pycuda", "torch", "nvidia-cuda", "nvidia-cudnn", "onnx", "opencv", "triton")
PACKAGES_TOO = ("numpy", "av", "pynvvideocodec", "pycocotools", "zxing-cpp", "pytest", "pip")
LIBRARIES = ("libcuda.so.1", "libnvcuvid.so.1", "libnvinfer.so.11", "libnvinfer.so.10", "libcudart.so.13")
TOOL_FOLDERS = ("/usr/local/cuda/bin", "/usr/local/nvidia/bin", "/opt/nvidia")


def find_tool(name: str) -> str | None:
    """A CUDA tool on the PATH, or where the toolkit, NVIDIA's packages or its containers put it."""
    paths = (path for folder in TOOL_FOLDERS for path in sorted(Path(folder).glob(f"**/{name}")))
    programs = (str(path) for path in paths if path.is_file() and os.access(path, os.X_OK))
    return shutil.which(name) or next(programs, None)


def versions() -> dict[str, Any]:
    """GPU, driver, tools, libraries and packages."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "gpus": _gpus(),
        "nvidia-smi": _said("nvidia-smi"),
        "nvcc": (_said("nvcc", "--version") or "").splitlines()[-2:],
        "compute-sanitizer": (_said("compute-sanitizer", "--version") or "").splitlines()[-1:],
        "ncu": (_said("ncu", "--version") or "").splitlines()[-2:],
        "libraries": {name: _loads(name) for name in LIBRARIES},
        "packages": {
            name: version
            for name, version in sorted(installed().items())
            if name.startswith(PACKAGES) or name in PACKAGES_TOO
        },
    }


def _gpus() -> list[dict[str, str]]:
    """Empty where there is none, or no answer; `nvidia-smi` then says why."""
    answer = _said("nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader") or ""
    rows = [line.split(", ") for line in answer.splitlines()]
    names = QUERY.split(",")
    return [dict(zip(names, values, strict=True)) for values in rows if len(values) == len(names)]


def _said(name: str, *arguments: str) -> str | None:
    tool = find_tool(name)
    if tool is None:
        return None
    try:
        ended = subprocess.run([tool, *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{type(error).__name__}: {error}"
    return ended.stdout.strip() if ended.returncode == 0 else f"exit status {ended.returncode}: {ended.stderr.strip()}"


def _loads(library: str) -> bool:
    """In a separate process, as a broken library can end it."""
    code = "import ctypes, sys; ctypes.CDLL(sys.argv[1])"
    return subprocess.run([sys.executable, "-c", code, library], capture_output=True).returncode == 0


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Describe the GPU, its driver, CUDA's tools and Python packages.")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    text = json.dumps(versions(), indent=2, ensure_ascii=False)
    args.output.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
