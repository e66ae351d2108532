"""Whether models run on an NVIDIA GPU here, and if not, why: what is missing, and the command that adds it.

`stream`, `bench` and `doctor` all ask this. It imports no package for CUDA, and on a machine without NVIDIA hardware it
reads a few files and nothing more, so that a stream starts as fast as before.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import NamedTuple

from ssd_edge.errors import SsdEdgeError
from ssd_edge.packages import is_installed
from ssd_edge.runtime.cuda.errors import cuda_failure
from ssd_edge.runtime.cuda.find import IMPLEMENTATIONS
from ssd_edge.runtime.host.fixes import (
    ANY_DOCKER_RUN,
    container_fix,
    driver_fix,
    driver_library_fix,
    extra_command,
    jetpack_fix,
    tensorrt_fix,
)
from ssd_edge.runtime.host.kind import Host, read_host
from ssd_edge.runtime.tensorrt.versions import MODULES

DRIVER_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
NO_LIBRARY = "no library"
NO_DEVICE = "CUDA_ERROR_NO_DEVICE"


class GpuUse(NamedTuple):
    """Whether there is an NVIDIA GPU, and what keeps models from running on it.

    Attributes:
        present: this machine has one, and it was not hidden on purpose (`CUDA_VISIBLE_DEVICES`).
        obstacle: what was found, then `;` and the fix; None: nothing that can be seen without importing CUDA packages.
    """

    present: bool
    obstacle: str | None

    def check(self) -> None:
        """Do nothing where models run on the GPU, as far as this can be told in advance.

        Raises:
            SsdEdgeError: they do not; with the reason and the fix.
        """
        if self.obstacle is not None:
            raise SsdEdgeError(self.obstacle)


def look_for_gpu(root: Path = Path("/")) -> GpuUse:
    """Look for an NVIDIA GPU, its driver, and the packages that it takes.

    Args:
        root: of the file system, for tests.
    """
    problem = driver_problem()
    if problem is None:
        lacking = [package for package, there in (("cuda", _has_cuda()), ("tensorrt", _has_tensorrt())) if not there]
        return GpuUse(True, _missing_packages(lacking, read_host(root), root) if lacking else None)
    hidden = problem == NO_DEVICE and "CUDA_VISIBLE_DEVICES" in os.environ
    host = read_host(root)
    if hidden or not host.nvidia:
        return GpuUse(
            False,
            f"there is no NVIDIA GPU here, or CUDA_VISIBLE_DEVICES or a container hides it ({ANY_DOCKER_RUN}); "
            "--backend onnxruntime runs models on the CPU",
        )
    return GpuUse(True, _driver_obstacle(problem, host))


def driver_problem() -> str | None:
    """Ask the driver itself for a GPU, without a package for CUDA.

    Returns:
        None where it has one; else `NO_LIBRARY`, or the name of its status, such as `NO_DEVICE`.
    """
    try:
        driver = ctypes.CDLL(DRIVER_LIBRARY)
    except OSError:
        return NO_LIBRARY
    status, count, name = driver.cuInit(0), ctypes.c_int(), ctypes.c_char_p()
    if status == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0:
        return None if count.value else NO_DEVICE
    driver.cuGetErrorName(status, ctypes.byref(name))
    return (name.value or b"CUDA_ERROR_UNKNOWN").decode()


def without_library(host: Host) -> str:
    """What is found where the kernel has loaded the driver, and its library is absent."""
    return f"driver {host.driver} is loaded, but {DRIVER_LIBRARY} is not found"


def _driver_obstacle(problem: str, host: Host) -> str:
    if problem in (NO_LIBRARY, NO_DEVICE) and host.container:
        return f"this container does not see the machine's NVIDIA GPU; {container_fix(host)}"
    if problem == NO_LIBRARY and host.driver:
        return f"{without_library(host)}; {driver_library_fix(host)}"
    if problem == NO_LIBRARY:
        return f"this machine has an NVIDIA GPU, but no driver ({DRIVER_LIBRARY}) for it; {driver_fix(host)}"
    return str(cuda_failure("cuInit", problem))


def _has_cuda() -> bool:
    return any(map(is_installed, IMPLEMENTATIONS.values()))


def _has_tensorrt() -> bool:
    return any(is_installed(name) for names in MODULES.values() for name in names)


def _missing_packages(lacking: list[str], host: Host, root: Path) -> str:
    if host.jetpack_too_old:
        return f"JetPack {host.jetpack} has a TensorRT that is too old; {jetpack_fix()}"
    names = {"cuda": "cuda-core", "tensorrt": "TensorRT"}
    fixes = {"cuda": extra_command(host.cuda_extra), "tensorrt": tensorrt_fix(host, root)}
    # What brings TensorRT brings the packages for CUDA too, but on a Jetson, where TensorRT is JetPack's.
    needed = lacking if host.jetson else lacking[-1:]
    found = f"{' and '.join(names[package] for package in lacking)} {'is' if len(lacking) == 1 else 'are'}"
    return f"{found} not installed, which the NVIDIA GPU needs; {', and '.join(fixes[one] for one in needed)}"
