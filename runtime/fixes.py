"""Commands that add what is missing, each for the kind of machine."""

from __future__ import annotations

import sys
from pathlib import Path

from ssd_edge.runtime.host import OLDEST_JETPACK, Host


def extra_command(name: str) -> str:
    """The command that installs an extra of this package."""
    return f"in the folder of ssd-edge: pip install '.[{name}]'"


def jetpack_fix() -> str:
    """How to replace a JetPack that is too old."""
    oldest = ".".join(map(str, OLDEST_JETPACK))
    return f"flash JetPack {oldest} or later: https://developer.nvidia.com/embedded/jetpack"


def container_fix(host: Host) -> str:
    """How a container gets to see the GPU."""
    if host.jetson:
        return "start the container with: docker run --runtime nvidia"
    return "start the container with: docker run --gpus all (needs NVIDIA's container toolkit on the host)"


def driver_fix(host: Host) -> str:
    """How to get NVIDIA's driver."""
    if host.jetson:
        return "sudo apt install nvidia-jetpack"
    where = "on the host: " if host.container else ""
    return f"{where}sudo ubuntu-drivers install && sudo reboot (Ubuntu; others: https://www.nvidia.com/drivers)"


def tensorrt_fix(host: Host, root: Path = Path("/")) -> str:
    """How to get TensorRT, JetPack's on a Jetson, elsewhere that of the package index.

    Args:
        root: of the file system, for tests.
    """
    if not host.jetson:
        if host.cuda_major == 12:  # the extra tensorrt is for CUDA 13
            return f"{extra_command('cuda12')} 'tensorrt-cu12>=10.3'"
        return extra_command("tensorrt")
    if not any(root.glob("usr/lib/python3*/dist-packages/tensorrt")):
        return "sudo apt install nvidia-jetpack"
    if sys.prefix == sys.base_prefix:
        return "run ssd-edge in the system's own Python, for which JetPack's TensorRT is"
    return (
        "JetPack's TensorRT is there, but this virtual environment does not see it: "
        f"python3 -m venv --system-site-packages .venv && .venv/bin/pip install '.[{host.cuda_extra}]'"
    )


def tensorrt_load_fix(problem: str) -> str:
    """How to repair a TensorRT that is installed but does not load."""
    if "libnvdla_compiler" in problem:  # of the Jetson's board support, which TensorRT's own packages do not depend on
        return (
            "this library is the Jetson's own: install it there with sudo apt install nvidia-l4t-dla-compiler, and "
            "start a container with docker run --runtime nvidia"
        )
    return "install it again"
