"""Commands that add what is missing, each for the kind of machine."""

from __future__ import annotations

import sys
from pathlib import Path

from ssd_edge.errors import PIP_INSTALL
from ssd_edge.runtime.host.kind import OLDEST_JETPACK, Host

DOCKER_OPTION, JETSON_DOCKER_OPTION = "--gpus all", "--runtime nvidia"
# Where the kind of machine is not known.
ANY_DOCKER_RUN = f"docker run {DOCKER_OPTION}, on a Jetson {JETSON_DOCKER_OPTION}"
EXPORT_INT8_FOR_TENSORRT = "ssd-edge export CHECKPOINT -o model.onnx --precision int8 --calib DATA --target tensorrt"
GSTREAMER_FIX = (
    "sudo apt install python3-gi gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good "
    "gstreamer1.0-plugins-bad gstreamer1.0-libav, and create the virtual environment again with: "
    "/usr/bin/python3 -m venv --system-site-packages"
)


def extra_command(name: str) -> str:
    """The command that installs an extra of this package."""
    return f"{PIP_INSTALL} '.[{name}]'"


def jetpack_fix() -> str:
    """How to replace a JetPack that is too old."""
    oldest = ".".join(map(str, OLDEST_JETPACK))
    return f"flash JetPack {oldest} or later: https://developer.nvidia.com/embedded/jetpack"


def container_fix(host: Host) -> str:
    """How to give a container access to the GPU."""
    if host.jetson:
        return f"start the container with: docker run {JETSON_DOCKER_OPTION}"
    return f"start the container with: docker run {DOCKER_OPTION} (needs NVIDIA's container toolkit on the host)"


def driver_fix(host: Host) -> str:
    """How to get NVIDIA's driver."""
    if host.jetson:
        return "sudo apt install nvidia-jetpack"
    where = "on the host: " if host.container else ""
    return f"{where}sudo ubuntu-drivers install && sudo reboot (Ubuntu; others: https://www.nvidia.com/drivers)"


def driver_library_fix(host: Host) -> str:
    """How to get the driver's library where the kernel has loaded the driver (`host.driver`).

    `Host` does not recognise the containers of containerd and Kubernetes, so this names the fix for a container too.
    """
    if host.jetson:
        package = "nvidia-l4t-cuda"
    else:
        package = f"libnvidia-compute-{str(host.driver).partition('.')[0]} (Ubuntu; Debian: libcuda1)"
    return f"in a container: {container_fix(host)}; elsewhere: sudo apt install {package}"


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
            f"start a container with docker run {JETSON_DOCKER_OPTION}"
        )
    return "install it again"
