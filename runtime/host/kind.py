"""`Host`: the kind of machine, which decides what is missing and how to fix it. Read from files alone.

Sources: https://developer.nvidia.com/embedded/jetson-linux-archive (Jetson Linux, or L4T, and JetPack);
https://nvidia.github.io/cuda-python/cuda-core/latest/install.html (the drivers of CUDA 12 and 13).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

JETPACK_OF_L4T = {
    "36.2.0": "6.0",
    "36.3.0": "6.0",
    "36.4.0": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.4.7": "6.2.1",
    "36.5.0": "6.2.2",
    "36.5.2": "6.2.3",
    "38.2.0": "7.0",
    "38.2.1": "7.0",
    "38.4.0": "7.1",
    "39.2.0": "7.2",
    "39.2.1": "7.2.1",
}
JETPACK_OF_L4T_MAJOR = {"32": "4", "34": "5", "35": "5", "36": "6", "38": "7", "39": "7"}
# Jetson Linux's own kernel, which a container sees even where it does not see the Jetson's other files.
JETPACK_OF_KERNEL = {"4.9": "4", "5.10": "5", "5.15": "6", "6.8": "7"}
OLDEST_JETPACK = (6, 1)  # the first with TensorRT 10.3; 6.0 has 8.6
DRIVER_OF_CUDA = {12: (525, 60), 13: (580, 65)}
DISPLAY_CLASS = "0x03"  # of PCI; 3-D controllers are of it too
NVIDIA_VENDOR = "0x10de"


@dataclass(frozen=True)
class Host:
    """The kind of machine.

    Attributes:
        board: of a Jetson and the like, as the device tree has it.
        l4t: Jetson Linux, such as `36.4.3`; None where this is no Jetson, or a container without its file.
        jetpack: such as `6.2`, or the major version alone; None where it cannot be told.
        jetson: it is one.
        nvidia: there is an NVIDIA GPU, with or without its driver.
        driver: version of the NVIDIA driver that the kernel has loaded.
        container: this is a container.
    """

    board: str | None = None
    l4t: str | None = None
    jetpack: str | None = None
    jetson: bool = False
    nvidia: bool = False
    driver: str | None = None
    container: bool = False

    @property
    def cuda_major(self) -> int:
        """The newest CUDA that its driver runs, 12 or 13; where there is nothing to tell, 13."""
        if self.jetpack:
            return 13 if version_numbers(self.jetpack) >= (7,) else 12
        return 12 if self.driver and version_numbers(self.driver) < DRIVER_OF_CUDA[13] else 13

    @property
    def jetpack_too_old(self) -> bool:
        """JetPack's TensorRT is too old. Of a JetPack known by its major version alone, only that is compared."""
        numbers = version_numbers(self.jetpack or "")
        return numbers < OLDEST_JETPACK[: len(numbers)]

    @property
    def cuda_extra(self) -> str:
        """The extra of this package that suits its driver."""
        return f"cuda{self.cuda_major}"


def read_host(root: Path = Path("/")) -> Host:
    """Look at the machine.

    Args:
        root: of the file system, for tests.
    """
    board = read_text(root / "proc/device-tree/model").strip("\0\n")
    release = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", read_text(root / "etc/nv_tegra_release"))
    l4t = f"{release[1]}.{release[2]}" if release else None
    kernel = re.match(r"(\d+\.\d+).*-tegra", read_text(root / "proc/sys/kernel/osrelease"))
    jetson = bool(l4t or kernel) or "nvidia,tegra" in read_text(root / "proc/device-tree/compatible")
    driver = re.search(r"\b\d+\.\d+(?:\.\d+)?\b", read_text(root / "proc/driver/nvidia/version"))
    return Host(
        board=board or None,
        l4t=l4t,
        jetpack=_jetpack(root, l4t, kernel[1] if kernel else "") if jetson else None,
        jetson=jetson,
        nvidia=jetson or driver is not None or (root / "dev/nvidiactl").exists() or _pci_gpu(root),
        driver=driver[0] if driver else None,
        container=any((root / mark).exists() for mark in (".dockerenv", "run/.containerenv")),
    )


def _jetpack(root: Path, l4t: str | None, kernel: str) -> str | None:
    """By what says it best: the package, Jetson Linux, the kernel."""
    if package := _jetpack_package(root):
        return package
    if l4t is None:
        return JETPACK_OF_KERNEL.get(kernel)
    return JETPACK_OF_L4T.get(l4t) or JETPACK_OF_L4T_MAJOR.get(l4t.partition(".")[0])


def _jetpack_package(root: Path) -> str | None:
    """Version of the installed package nvidia-jetpack, such as 6.2 of 6.2+b77."""
    packages = read_text(root / "var/lib/dpkg/status").split("\n\n")
    fields = next((text for text in packages if text.startswith("Package: nvidia-jetpack\n")), "")
    version = re.search(r"^Version: (\d[\d.]*)", fields, re.MULTILINE)
    return version[1] if version and "Status: install ok installed" in fields else None


def _pci_gpu(root: Path) -> bool:
    return any(
        read_text(vendor).strip() == NVIDIA_VENDOR and read_text(vendor.with_name("class")).startswith(DISPLAY_CLASS)
        for vendor in (root / "sys/bus/pci/devices").glob("*/vendor")
    )


def version_numbers(version: str) -> tuple[int, ...]:
    """The numbers in a version, to compare: (1, 0, 1) of `1.0.1`."""
    return tuple(map(int, re.findall(r"\d+", version)))


def read_text(path: Path) -> str:
    """Content of a file; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
