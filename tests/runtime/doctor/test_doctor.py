"""The doctor's checks on machines made of files, faked modules and ioctls; checks that crash and hang; the command."""

import errno
import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ssd_edge.cli import main as cli
from ssd_edge.errors import MissingDependencyError, SsdEdgeError
from ssd_edge.runtime.cuda import core as cuda_core
from ssd_edge.runtime.cuda import find
from ssd_edge.runtime.cuda.base import Gpu
from ssd_edge.runtime.cuda.errors import CudaError
from ssd_edge.runtime.doctor import base, cameras, diagnosis, gpu, system, v4l2
from ssd_edge.runtime.doctor.diagnosis import CHECKS, Diagnosis
from ssd_edge.runtime.doctor.finding import MISSING, NONE, OK, PROBLEM, Finding, problem
from ssd_edge.runtime.doctor.isolation import run_isolated
from ssd_edge.runtime.doctor.v4l2 import Camera, Mode, read_camera
from ssd_edge.runtime.host import fixes, gpu_use
from ssd_edge.runtime.host.kind import JETPACK_OF_L4T, JETPACK_OF_L4T_MAJOR, Host, read_host
from ssd_edge.runtime.tensorrt import versions
from tests.fakes.scripted_sources import wait_for

DOCS = Path(__file__).resolve().parents[3] / "docs" / "doctor.md"

ORIN = {
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    "proc/device-tree/compatible": "nvidia,p3768-0000\0nvidia,tegra234\0",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
    "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build\n",
}
DESKTOP = {"proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27\n"}
PCI_GPU = {
    "sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n",
    "sys/bus/pci/devices/0000:01:00.0/class": "0x030000\n",
}
JETPACK_PACKAGE = "Package: bash\nVersion: 5\n\nPackage: nvidia-jetpack\nStatus: {}\nVersion: 6.2.1+b38\n"


@pytest.fixture
def machine(tmp_path: Path) -> Callable[..., Path]:
    """A file system with these files."""

    def make(*trees: dict[str, str]) -> Path:
        for path, text in [item for tree in trees for item in tree.items()]:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
        return tmp_path

    return make


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the doctor find these packages and versions, and no others."""

    def install(**versions: str) -> None:
        def version(package: str) -> str:
            if package.replace("-", "_") not in versions:
                raise PackageNotFoundError(package)
            return versions[package.replace("-", "_")]

        monkeypatch.setattr(base, "version", version)

    return install


@pytest.fixture
def smi(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """What nvidia-smi prints, and its exit status."""

    def answer(text: str, status: int = 0) -> None:
        monkeypatch.setattr(gpu.shutil, "which", lambda _: "/usr/bin/nvidia-smi")
        result = SimpleNamespace(stdout=text, returncode=status)
        monkeypatch.setattr(gpu.subprocess, "run", lambda *_, **__: result)

    monkeypatch.setattr(gpu.shutil, "which", lambda _: None)
    return answer


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its library is there, and reports an error."""
    monkeypatch.setattr(gpu_use, "driver_problem", lambda: "CUDA_ERROR_UNKNOWN")


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a module with these members where it would be imported from."""

    def make(name: str, **members: Any) -> None:
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(**members))

    return make


# The kind of machine


def test_a_jetson_is_told_by_its_files(machine: Callable[..., Path]) -> None:
    host = read_host(machine(ORIN))
    assert host == Host("NVIDIA Jetson Orin Nano Developer Kit", "36.4.3", "6.2", True, True, "540.4.0", False)
    assert host.cuda_extra == "cuda12"


@pytest.mark.parametrize(
    ("status", "version"), [("install ok installed", "6.2.1"), ("deinstall ok config-files", "6.2")]
)
def test_the_jetpack_package_says_it_better(machine: Callable[..., Path], status: str, version: str) -> None:
    assert read_host(machine(ORIN, {"var/lib/dpkg/status": JETPACK_PACKAGE.format(status)})).jetpack == version


@pytest.mark.parametrize(
    ("release", "revision", "jetpack", "extra", "too_old"),
    [
        ("35", "4.1", "5", "cuda12", True),
        ("36", "3.0", "6.0", "cuda12", True),
        ("36", "4.0", "6.1", "cuda12", False),
        ("36", "9.0", "6", "cuda12", False),
        ("38", "4.0", "7.1", "cuda13", False),
        ("39", "2.0", "7.2", "cuda13", False),
        ("39", "9.0", "7", "cuda13", False),
        ("77", "1.0", None, "cuda13", False),
    ],
)
def test_jetpack_of_other_jetsons(
    machine: Callable[..., Path], release: str, revision: str, jetpack: str | None, extra: str, too_old: bool
) -> None:
    host = read_host(machine({"etc/nv_tegra_release": f"# R{release} (release), REVISION: {revision}, GCID: 1\n"}))
    assert (host.l4t, host.jetpack, host.cuda_extra) == (f"{release}.{revision}", jetpack, extra)
    assert host.jetpack_too_old == too_old


def test_every_known_jetson_linux_is_of_the_jetpack_of_its_major_version() -> None:
    for l4t, jetpack in JETPACK_OF_L4T.items():
        assert jetpack.startswith(f"{JETPACK_OF_L4T_MAJOR[l4t.partition('.')[0]]}.")


@pytest.mark.parametrize(
    ("kernel", "jetson", "jetpack"),
    [("5.15.148-tegra", True, "6"), ("6.8.12-tegra", True, "7"), ("6.8.0", False, None)],
)
def test_a_container_tells_a_jetson_by_its_kernel(
    machine: Callable[..., Path], kernel: str, jetson: bool, jetpack: str | None
) -> None:
    host = read_host(machine({"proc/sys/kernel/osrelease": f"{kernel}\n", ".dockerenv": ""}))
    assert host == Host(jetpack=jetpack, jetson=jetson, nvidia=jetson, container=True)


def test_gpus_without_driver_and_none_at_all(machine: Callable[..., Path]) -> None:
    assert read_host(machine()) == Host()
    assert read_host(machine(PCI_GPU)) == Host(nvidia=True)
    network_card = {"sys/bus/pci/devices/0000:01:00.0/class": "0x020000\n"}
    assert read_host(machine(PCI_GPU, network_card)) == Host()


@pytest.mark.parametrize(("driver", "extra"), [("580.65.06", "cuda13"), ("575.57", "cuda12"), (None, "cuda13")])
def test_the_driver_decides_which_cuda(driver: str | None, extra: str) -> None:
    assert Host(driver=driver).cuda_extra == extra


# The machine itself


def test_python() -> None:
    found = system.python()
    assert found.status == OK
    assert found.facts == {
        "version": ".".join(map(str, sys.version_info[:3])),
        "virtual_environment": sys.prefix != sys.base_prefix,
    }


@pytest.mark.parametrize(
    ("line", "words", "fast"),
    [
        ("flags : fpu avx2 avx512_vnni", "fast int8 (VNNI)", True),
        ("Features : fp asimd asimddp i8mm", "fast int8 (dot product, int8 matrices)", True),
        ("flags : fpu avx2", "int8 hardly faster than fp32", False),
    ],
)
def test_processor(machine: Callable[..., Path], line: str, words: str, fast: bool) -> None:
    found = system.processor(machine({"proc/cpuinfo": f"model name : Some CPU\n{line}\n"}))
    assert found.summary.startswith("Some CPU, ")
    assert words in found.summary
    assert found.facts["fast_int8"] is fast


@pytest.mark.parametrize(("free_kib", "status"), [(3 << 20, OK), (100 << 10, PROBLEM)])
def test_memory(machine: Callable[..., Path], free_kib: int, status: str) -> None:
    found = system.memory(machine({"proc/meminfo": f"MemTotal:  8388608 kB\nMemAvailable: {free_kib} kB\n"}))
    assert (found.status, found.facts) == (status, {"total_bytes": 8 << 30, "free_bytes": free_kib << 10})
    assert found.summary == f"{free_kib / (1 << 20):.1f} of 8.0 GiB free"


def test_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    free = {"cache": 5 << 30, "here": 9 << 30}
    monkeypatch.setattr(system.shutil, "disk_usage", lambda path: SimpleNamespace(free=free[Path(path).name]))
    for name in free:
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("SSD_EDGE_CACHE", str(tmp_path / "cache" / "not" / "yet"))
    found = system.disk()
    assert (found.status, found.summary) == (OK, "9.0 GiB free here, 5.0 GiB for engines")
    free["cache"] = 1 << 20
    assert system.disk().status == PROBLEM
    monkeypatch.setattr(system.os, "access", lambda *_: False)
    found = system.disk()
    assert (found.status, found.summary) == (PROBLEM, f"{tmp_path / 'cache'} cannot be written to")
    assert "export SSD_EDGE_CACHE=" in str(found.fix)


def test_jetpack(machine: Callable[..., Path]) -> None:
    assert system.jetpack(machine()) == Finding(NONE, "not a Jetson")
    found = system.jetpack(machine(ORIN))
    assert (found.status, found.summary) == (
        OK,
        "6.2 (Jetson Linux 36.4.3), NVIDIA Jetson Orin Nano Developer Kit",
    )


@pytest.mark.parametrize(
    ("release", "revision", "jetpack"), [("35", "4.1", "5"), ("36", "2.0", "6.0"), ("36", "3.0", "6.0")]
)
def test_a_jetpack_too_old_names_the_one_needed(
    machine: Callable[..., Path], release: str, revision: str, jetpack: str
) -> None:
    l4t = {"etc/nv_tegra_release": f"# R{release} (release), REVISION: {revision}, GCID: 1\n"}
    found = system.jetpack(machine(ORIN, l4t))
    assert found.status == PROBLEM
    assert found.summary.startswith(f"{jetpack} (Jetson Linux {release}.{revision}), NVIDIA Jetson Orin")
    assert found.summary.endswith("too old, 6.1 or later is needed")
    assert "flash JetPack 6.1 or later" in str(found.fix)


def test_a_container_on_a_jetson_does_not_know_its_jetpack(machine: Callable[..., Path]) -> None:
    root = machine(ORIN, {"etc/nv_tegra_release": "", ".dockerenv": ""})
    found = system.jetpack(root)
    assert (found.status, found.facts["l4t"]) == (OK, None)
    assert found.summary.startswith("unknown version (Jetson Linux unknown), NVIDIA Jetson Orin")


# The base install


def fake_cv2(backends: dict[str, bool], *, gui: str = "QT5", gstreamer: str = "NO") -> dict[str, Any]:
    names = list(backends)
    registry = SimpleNamespace(
        getBackends=lambda: range(len(names)),
        getBackendName=names.__getitem__,
        hasBackend=lambda number: backends[names[number]],
    )
    build = f"  GUI:                {gui}\n\n  Video I/O:\n    GStreamer:        {gstreamer} (1.20.3)\n"
    return {"__version__": "4.10.0", "videoio_registry": registry, "getBuildInformation": lambda: build}


def test_opencv(module: Callable[..., None]) -> None:
    module("cv2", **fake_cv2({"FFMPEG": True, "GSTREAMER": True, "V4L2": True, "UEYE": False}, gstreamer="YES"))
    assert base.opencv() == Finding(
        OK,
        "4.10.0, FFMPEG, GSTREAMER, V4L2",
        {"version": "4.10.0", "backends": ["FFMPEG", "GSTREAMER", "V4L2"], "gstreamer": True, "windows": True},
    )


def test_opencv_without_windows_or_ffmpeg(module: Callable[..., None]) -> None:
    module("cv2", **fake_cv2({"FFMPEG": True, "V4L2": True}, gui="NONE"))
    found = base.opencv()
    assert (found.status, found.gives) == (MISSING, "stream --show")
    module("cv2", **fake_cv2({"FFMPEG": False, "V4L2": True}))
    found = base.opencv()
    assert (found.status, found.gives) == (MISSING, "video files and network cameras")
    assert found.summary.endswith("no FFMPEG")


@pytest.mark.parametrize(
    ("message", "fix"),
    [
        ("libGL.so.1: cannot open shared object file", "sudo apt install libgl1 libglib2.0-0"),
        ("numpy.core.multiarray failed to import", "pip install --force-reinstall opencv-python"),
    ],
)
def test_opencv_that_does_not_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, message: str, fix: str) -> None:
    (tmp_path / "cv2.py").write_text(f"raise ImportError({message!r})")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cv2", raising=False)
    found = base.opencv()
    assert (found.status, found.summary, found.fix) == (PROBLEM, f"does not load: {message}", fix)


def test_onnxruntime(module: Callable[..., None]) -> None:
    providers = ["TensorrtExecutionProvider", "CPUExecutionProvider"]
    module("onnxruntime", __version__="1.20.0", get_available_providers=lambda: providers)
    found = base.onnxruntime()
    assert found == Finding(OK, "1.20.0, Tensorrt, CPU", {"version": "1.20.0", "providers": providers})


def test_the_bundled_model_finds_the_code() -> None:
    found = base.bundled()
    assert (found.status, found.facts["found"]) == (OK, ["qr_code"])
    assert found.facts["ms"] > 0


def test_a_model_that_finds_nothing_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "qr_picture", lambda: np.zeros((480, 640, 3), np.uint8))
    found = base.bundled()
    assert (found.status, found.summary) == (PROBLEM, "runs, but finds nothing in a picture of one QR code")


def fake_torch(*, cuda: str | None, available: bool) -> dict[str, Any]:
    return {
        "__version__": "2.9.0",
        "version": SimpleNamespace(cuda=cuda),
        "cuda": SimpleNamespace(is_available=lambda: available),
    }


@pytest.mark.parametrize(
    ("tree", "cuda", "available", "status", "words"),
    [
        ({}, None, False, OK, "on the processor"),
        (DESKTOP, "13.0", True, OK, "on the GPU"),
        (DESKTOP, None, False, PROBLEM, "a build without CUDA"),
        (DESKTOP, "13.0", False, PROBLEM, "its CUDA 13.0 does not see the GPU"),
        (ORIN, None, False, OK, "on the processor"),
    ],
)
def test_torch(
    machine: Callable[..., Path],
    module: Callable[..., None],
    installed: Callable[..., None],
    tree: dict[str, str],
    cuda: str | None,
    available: bool,
    status: str,
    words: str,
) -> None:
    installed(torch="2.9.0")
    module("torch", **fake_torch(cuda=cuda, available=available))
    found = base.torch(machine(tree))
    assert (found.status, found.facts) == (status, {"version": "2.9.0", "cuda": cuda, "gpu": available})
    assert words in found.summary


def test_torch_is_missed_where_one_trains(machine: Callable[..., Path], installed: Callable[..., None]) -> None:
    installed()
    found = base.torch(machine())
    assert (found.status, found.fix) == (MISSING, "in the folder of ssd-edge: pip install '.[train]'")
    assert base.torch(machine(ORIN)).status == NONE


# The GPU


def test_gpus_as_nvidia_smi_has_them(machine: Callable[..., Path], smi: Callable[..., None]) -> None:
    smi("NVIDIA RTX A4000, 580.65.06, 16376, 15000, 8.6\nTesla T4, 580.65.06, 15360, 15000, 7.5\n")
    found = gpu.gpu(machine(DESKTOP))
    assert (found.status, found.summary) == (OK, "NVIDIA RTX A4000, Tesla T4, driver 580.65.06")
    assert found.facts["gpus"][0] == {
        "name": "NVIDIA RTX A4000",
        "driver": "580.65.06",
        "memory_bytes": 16376 << 20,
        "memory_free_bytes": 15000 << 20,
        "compute_capability": "8.6",
    }


def test_a_jetsons_nvidia_smi_leaves_fields_open(machine: Callable[..., Path], smi: Callable[..., None]) -> None:
    smi("Orin (nvgpu), 540.4.0, [N/A], [N/A], [N/A]\n")
    (found,) = gpu.gpu(machine(ORIN)).facts["gpus"]
    assert (found["memory_bytes"], found["memory_free_bytes"], found["compute_capability"]) == (None, None, None)


@pytest.mark.parametrize(
    ("trees", "status", "summary", "fix"),
    [
        ([], NONE, "no NVIDIA GPU: models run on the processor", None),
        ([ORIN], OK, "NVIDIA Jetson Orin Nano Developer Kit, driver 540.4.0", None),
        ([PCI_GPU], MISSING, "an NVIDIA GPU without NVIDIA's driver", "sudo ubuntu-drivers install"),
        ([PCI_GPU, {".dockerenv": ""}], MISSING, "an NVIDIA GPU without NVIDIA's driver", "on the host: sudo"),
        ([DESKTOP], PROBLEM, "driver 580.65.06 does not answer", "restart the machine"),
        (
            [DESKTOP, {".dockerenv": ""}],
            MISSING,
            "driver 580.65.06, but no GPU in this container",
            "docker run --gpus all",
        ),
    ],
)
def test_gpus_that_do_not_answer(
    machine: Callable[..., Path],
    smi: Callable[..., None],
    driver: None,
    trees: list[dict[str, str]],
    status: str,
    summary: str,
    fix: str | None,
) -> None:
    found = gpu.gpu(machine(*trees))
    assert (found.status, found.summary) == (status, summary)
    assert found.fix is None if fix is None else fix in str(found.fix)


def test_a_driver_too_old_names_the_one_needed(machine: Callable[..., Path], smi: Callable[..., None]) -> None:
    smi("Tesla T4, 470.57.02, 15360, 15000, 7.5\n")
    found = gpu.gpu(machine(DESKTOP))
    assert (found.status, found.summary) == (PROBLEM, "Tesla T4, driver 470.57.02: too old, 525.60 is needed")


def test_a_driver_without_its_library(
    machine: Callable[..., Path], smi: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container of Kubernetes that was given no GPU, which has no mark of a container."""
    monkeypatch.setattr(gpu_use, "driver_problem", lambda: gpu_use.NO_LIBRARY)
    found = gpu.gpu(machine(DESKTOP))
    assert (found.status, found.summary) == (MISSING, "driver 580.65.06 is loaded, but libcuda.so.1 is not found")
    assert "docker run --gpus all" in str(found.fix)
    assert "libcuda1" in str(found.fix)


def test_nvidia_smi_that_fails(machine: Callable[..., Path], smi: Callable[..., None], driver: None) -> None:
    smi("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n", 9)
    assert gpu.gpu(machine(DESKTOP)).status == PROBLEM
    smi("No devices were found\n")
    assert gpu.gpu(machine(DESKTOP)).status == PROBLEM


@pytest.fixture
def bindings(
    module: Callable[..., None], installed: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> Callable[[Gpu | CudaError], None]:
    """cuda-bindings, through which this GPU is found."""

    def make(answer: Gpu | CudaError) -> None:
        def read_gpu() -> Gpu:
            if isinstance(answer, CudaError):
                raise answer
            return answer

        installed(cuda_bindings="12.9.1")
        module("cuda.bindings.runtime", cudaRuntimeGetVersion=lambda: (0, 12090))
        monkeypatch.setattr(find, "read_gpu", read_gpu)

    return make


def test_cuda_and_the_gpu_seen_through_it(machine: Callable[..., Path], bindings: Callable[..., None]) -> None:
    bindings(Gpu("Orin", "8.7", "12.6"))
    found = gpu.cuda(machine(ORIN))
    assert found.status == OK
    assert found.facts == {
        "cuda_bindings": "12.9.1",
        "runtime": "12.9",
        "driver_cuda": "12.6",
        "gpu": "Orin",
        "compute_capability": "8.7",
    }


@pytest.mark.parametrize(
    ("trees", "status", "summary", "fix"),
    [
        ([], OK, "cuda-bindings 12.9.1, runtime 12.9; no GPU to use them on", None),
        ([PCI_GPU], PROBLEM, "no driver", "install it"),
        (
            [DESKTOP],
            PROBLEM,
            "driver 580.65.06 is loaded, but libcuda.so.1 is not found",
            "in a container: start the container with: docker run --gpus all (needs NVIDIA's container toolkit on the "
            "host); elsewhere: sudo apt install libnvidia-compute-580 (Ubuntu; Debian: libcuda1)",
        ),
        (
            [DESKTOP, {".dockerenv": ""}],
            PROBLEM,
            "no driver",
            "start the container with: docker run --gpus all (needs NVIDIA's container toolkit on the host)",
        ),
        ([ORIN, {".dockerenv": ""}], PROBLEM, "no driver", "start the container with: docker run --runtime nvidia"),
    ],
)
def test_cuda_without_a_gpu_to_be_seen(
    machine: Callable[..., Path],
    bindings: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    trees: list[dict[str, str]],
    status: str,
    summary: str,
    fix: str | None,
) -> None:
    bindings(CudaError("no driver; install it"))
    monkeypatch.setattr(gpu_use, "driver_problem", lambda: gpu_use.NO_LIBRARY)
    found = gpu.cuda(machine(*trees))
    assert (found.status, found.summary, found.fix) == (status, summary, fix)
    assert (found.facts["cuda_bindings"], found.facts["gpu"]) == ("12.9.1", None)


def test_a_container_that_sees_the_gpu_is_not_started_anew(
    machine: Callable[..., Path], bindings: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    bindings(CudaError("the driver runs CUDA up to 12.6; take the packages for CUDA 12"))
    monkeypatch.setattr(gpu_use, "driver_problem", lambda: None)
    assert gpu.cuda(machine(ORIN, {".dockerenv": ""})).fix == "take the packages for CUDA 12"


@pytest.mark.parametrize("check", [gpu.cuda, gpu.nvrtc, gpu.cuda_core])
def test_cuda_packages_are_missed_only_with_a_gpu(
    machine: Callable[..., Path],
    installed: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    check: Callable[[Path], Finding],
) -> None:
    def missing() -> None:
        raise MissingDependencyError("no package for CUDA", extra="cuda13")

    installed()
    monkeypatch.setattr(find, "read_gpu", missing)
    monkeypatch.setattr(cuda_core, "load_api", missing)
    assert check(machine()) == Finding(NONE, "not needed without an NVIDIA GPU")
    found = check(machine(ORIN))
    assert (found.status, found.fix) == (MISSING, "in the folder of ssd-edge: pip install '.[cuda12]'")


def test_nvrtc(machine: Callable[..., Path], installed: Callable[..., None], module: Callable[..., None]) -> None:
    def not_there() -> None:
        raise RuntimeError("Failure finding libnvrtc.so")

    installed(cuda_bindings="13.0.1")
    module("cuda.bindings.nvrtc", nvrtcVersion=lambda: (0, 13, 1))
    assert gpu.nvrtc(machine(DESKTOP)) == Finding(OK, "13.1", {"version": "13.1"})
    module("cuda.bindings.nvrtc", nvrtcVersion=not_there)
    found = gpu.nvrtc(machine(DESKTOP))
    assert (found.status, found.fix) == (MISSING, "in the folder of ssd-edge: pip install '.[cuda13]'")


def test_cuda_core_and_pycuda(
    machine: Callable[..., Path],
    installed: Callable[..., None],
    module: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed()
    assert gpu.pycuda().status == NONE
    installed(cuda_core="1.0.1", pycuda="2026.1")
    monkeypatch.setattr(cuda_core, "load_api", lambda: None)
    module("pycuda.driver")
    assert gpu.cuda_core(machine()) == Finding(OK, "1.0.1", {"version": "1.0.1"})
    assert gpu.pycuda() == Finding(OK, "2026.1", {"version": "2026.1"})


@pytest.mark.parametrize("check", [gpu.cuda_core, gpu.cuda])
def test_a_cuda_core_that_is_too_old(
    machine: Callable[..., Path],
    installed: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    check: Callable[[Path], Finding],
) -> None:
    def too_old() -> None:
        raise MissingDependencyError("cuda-core 0.7.0 is too old, running on a GPU needs 1.0.1 or later", "cuda12")

    installed(cuda_core="0.7.0")
    monkeypatch.setattr(cuda_core, "load_api", too_old)
    monkeypatch.setattr(find, "read_gpu", too_old)
    assert check(machine()).status == NONE
    found = check(machine(ORIN))
    assert (found.status, found.summary) == (
        PROBLEM,
        "cuda-core 0.7.0 is too old, running on a GPU needs 1.0.1 or later",
    )
    assert found.fix == "in the folder of ssd-edge: pip install '.[cuda12]'"


@pytest.fixture
def no_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> None:
        raise MissingDependencyError("neither", extra="rtx")

    monkeypatch.setattr(versions, "load_tensorrt", missing)
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda _: None)


@pytest.mark.usefixtures("no_tensorrt")
def test_tensorrt_is_missed_where_there_is_a_gpu(machine: Callable[..., Path]) -> None:
    assert (gpu.tensorrt(machine()).status, gpu.tensorrt_rtx(machine()).status) == (NONE, NONE)
    found = gpu.tensorrt(machine(DESKTOP))
    assert (found.status, found.fix) == (MISSING, "in the folder of ssd-edge: pip install '.[tensorrt]'")


@pytest.mark.usefixtures("no_tensorrt")
def test_tensorrt_rtx_in_place_of_tensorrt(machine: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: name == "tensorrt_rtx")
    assert gpu.tensorrt(machine(DESKTOP)) == Finding(NONE, "TensorRT-RTX takes its place")


@pytest.mark.usefixtures("no_tensorrt")
def test_tensorrt_on_a_jetson(machine: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu.tensorrt_rtx(machine(ORIN)).status == NONE
    assert gpu.tensorrt(machine(ORIN)).fix == "sudo apt install nvidia-jetpack"
    root = machine({"usr/lib/python3.10/dist-packages/tensorrt/__init__.py": ""})
    monkeypatch.setattr(fixes.sys, "base_prefix", "/usr")
    assert "python3 -m venv --system-site-packages .venv" in str(gpu.tensorrt(root).fix)
    monkeypatch.setattr(fixes.sys, "prefix", "/usr")
    assert "in the system's own Python" in str(gpu.tensorrt(root).fix)


def test_a_tensorrt_that_is_there_and_one_too_old(
    machine: Callable[..., Path], module: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    module("tensorrt", __version__="10.3.0", Builder=object)
    assert gpu.tensorrt(machine(ORIN)) == Finding(OK, "10.3.0", {"version": "10.3.0"})
    module("tensorrt", __version__="8.5.2", Builder=object)
    monkeypatch.setattr(versions, "read_host", lambda: read_host(machine(ORIN)))
    with pytest.raises(SsdEdgeError) as raised:
        gpu.tensorrt(machine(ORIN))
    found = problem(raised.value)
    assert found.summary == "TensorRT 8.5.2 is too old"
    assert str(found.fix).startswith("10.3 or later is needed: flash JetPack 6.1 or later")


@pytest.mark.parametrize(
    ("use", "found"),
    [
        (gpu_use.GpuUse(False, "none"), Finding(NONE, "models run on the processor: no NVIDIA GPU")),
        (gpu_use.GpuUse(True, None), Finding(OK, "models run on Orin with TensorRT 10.3.0")),
        (
            gpu_use.GpuUse(True, "cuda-core is not installed here; install it"),
            Finding(PROBLEM, "cuda-core is not installed here", gives=gpu.GIVES_ENGINES, fix="install it"),
        ),
    ],
)
def test_whether_models_run_on_the_gpu(
    monkeypatch: pytest.MonkeyPatch, bindings: Callable[..., None], use: gpu_use.GpuUse, found: Finding
) -> None:
    bindings(Gpu("Orin", "8.7", "12.6"))
    monkeypatch.setattr(gpu_use, "look_for_gpu", lambda root: use)
    trt = versions.TensorRT("tensorrt", "10.3.0", sys)
    monkeypatch.setattr(versions, "load_tensorrt", lambda: trt)
    assert gpu.gpu_use() == found


# Cameras


class FakeDriver:
    """An ioctl of a webcam with these formats: sizes by fourcc, seconds a frame by size. Written from videodev2.h."""

    def __init__(
        self, formats: dict[bytes, dict[tuple[int, ...], list[tuple[int, ...]]]], *, capture: int = 0x1
    ) -> None:
        self.formats = formats
        self.capture = capture

    def __call__(self, _: int, request: int, buffer: bytearray) -> None:
        number, size = request & 0xFF, request >> 16 & 0x3FFF
        assert size == len(buffer)
        {0: self.capabilities, 2: self.format, 74: self.size, 75: self.interval}[number](buffer)

    def capabilities(self, buffer: bytearray) -> None:
        struct.pack_into("16s32s32s3I", buffer, 0, b"uvcvideo", b"HD Webcam", b"usb-1", 6, 0x84A00001, self.capture)

    def format(self, buffer: bytearray) -> None:
        index, buffers = struct.unpack_from("2I", buffer)
        name = self.nth(self.formats if buffers == 1 else {}, index)
        buffer[44:48] = name

    def size(self, buffer: bytearray) -> None:
        index, name = struct.unpack_from("I4s", buffer)
        size = self.nth(self.formats[name], index)
        struct.pack_into(f"{1 + len(size)}I", buffer, 8, 1 if len(size) == 2 else 3, *size)

    def interval(self, buffer: bytearray) -> None:
        index, name, width, height = struct.unpack_from("I4s2I", buffer)
        sizes = self.formats[name]
        seconds = self.nth(sizes.get((width, height)) or next(iter(sizes.values())), index)
        struct.pack_into(f"{1 + len(seconds)}I", buffer, 16, 1 if len(seconds) == 2 else 3, *seconds)

    @staticmethod
    def nth(items: Any, index: int) -> Any:
        if index >= len(items):
            raise OSError(errno.EINVAL, "no more")
        return list(items)[index]


WEBCAM = {
    b"MJPG": {(1920, 1080): [(1, 30), (1, 15)], (640, 480): [(1001, 30000)]},
    b"YUYV": {(640, 480): [(1, 30)]},
}


def test_modes_of_a_webcam() -> None:
    assert read_camera(3, FakeDriver(WEBCAM)) == Camera(
        "HD Webcam",
        "uvcvideo",
        (
            Mode("MJPG", 1920, 1080, (15.0, 30.0)),
            Mode("MJPG", 640, 480, (29.97,)),
            Mode("YUYV", 640, 480, (30.0,)),
        ),
    )


def test_sizes_and_rates_in_a_range() -> None:
    driver = FakeDriver({b"NV12": {(32, 1920, 2, 16, 1080, 2): [(1, 60, 1, 5, 1, 1)]}})
    camera = read_camera(3, driver)
    assert camera is not None
    assert camera.modes == (Mode("NV12", 1920, 1080, (5.0, 60.0), (32, 16)),)


def test_a_node_of_metadata_is_no_camera() -> None:
    assert read_camera(3, FakeDriver(WEBCAM, capture=0x00800000)) is None


def test_a_driver_that_never_says_no_more() -> None:
    def ioctl(_: int, request: int, buffer: bytearray) -> None:
        if request == v4l2.QUERYCAP:
            FakeDriver({}).capabilities(buffer)

    camera = read_camera(3, ioctl)
    assert camera is not None
    assert len(camera.modes) == 2  # one of each kind of buffers


@pytest.fixture
def video(machine: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Device files, each with its camera, or with the error of asking for it."""

    def make(**answers: Camera | OSError | None) -> Path:
        root = machine(
            *({f"dev/{name}": "", f"sys/class/video4linux/{name}/name": f"name of {name}\n"} for name in answers)
        )

        def read(device: int) -> Camera | None:
            found = answers[Path(os.readlink(f"/proc/self/fd/{device}")).name]
            if isinstance(found, OSError):
                raise found
            return found

        monkeypatch.setattr(cameras, "read_camera", read)
        return root

    return make


CAMERA = Camera("HD Webcam", "uvcvideo", (Mode("MJPG", 640, 480, (30.0,)), Mode("MJPG", 1920, 1080, (15.0, 30.0))))


def test_cameras_in_the_order_of_their_numbers(video: Callable[..., Path]) -> None:
    found = cameras.cameras(video(video10=CAMERA, video2=CAMERA, video3=None))
    assert found.status == OK
    assert [camera["device"] for camera in found.facts["cameras"]] == ["/dev/video2", "/dev/video10"]
    assert found.summary.startswith("/dev/video2 HD Webcam: MJPG 1920×1080 at 30 FPS; ")
    assert found.facts["cameras"][0]["modes"][0] == {
        "pixel_format": "MJPG",
        "width": 640,
        "height": 480,
        "fps": (30.0,),
        "smallest": None,
    }


def test_a_camera_without_permission_names_the_group(video: Callable[..., Path]) -> None:
    root = video(video0=OSError(errno.EACCES, ""))
    found = cameras.cameras(root)
    assert (found.status, found.summary) == (PROBLEM, "/dev/video0 name of video0: Permission denied")
    assert found.fix == "sudo usermod -aG video $USER, then log in again"
    (root / ".dockerenv").touch()
    fix = f"start the container with: docker run --device /dev/video0 --group-add {os.getgid()}"
    assert cameras.cameras(root).fix == fix


def test_a_camera_that_is_in_use_beside_one_that_is_not(video: Callable[..., Path]) -> None:
    busy = OSError(errno.EBUSY, "")
    assert cameras.cameras(video(video0=busy)).fix == "close what uses it, or plug it in again; sudo dmesg says more"
    found = cameras.cameras(video(video0=busy, video1=CAMERA))
    assert found.status == OK
    assert "Device or resource busy" in found.summary


@pytest.mark.parametrize("there", [True, False])
def test_a_csi_camera_needs_gstreamer(there: bool, video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssd_edge.runtime.sources.csi.has_gstreamer", lambda: there)
    csi = Camera("vi-output, imx219 9-0010", "tegra-video", (Mode("RG10", 3280, 2464, (21.0,)),))
    found = cameras.cameras(video(video0=csi))
    assert (found.status, "python3-gi" in str(found.fix)) == ((OK, False) if there else (PROBLEM, True))
    usb = cameras.cameras(video(video0=csi, video1=CAMERA))
    assert usb.status == OK


def test_no_cameras_here_or_not_in_this_container(machine: Callable[..., Path]) -> None:
    assert cameras.cameras(machine()).status == NONE
    root = machine({"sys/class/video4linux/video0/name": "HD Webcam", ".dockerenv": ""})
    found = cameras.cameras(root)
    assert (found.status, found.fix) == (MISSING, "start the container with: docker run --device /dev/video0")


# Isolation: these run in processes of their own


def good() -> Finding:
    print("what a library prints")
    os.write(1, b"and its native part")
    return Finding(OK, "good", {"pid": os.getpid()})


def raises() -> Finding:
    raise RuntimeError("first line\nsecond line")


def refuses() -> Finding:
    raise SsdEdgeError("it is broken; mend it so")


def exits() -> Finding:
    sys.exit(0)


def crashes() -> Finding:
    os.kill(os.getpid(), signal.SIGSEGV)
    return good()


def vanishes() -> Finding:
    os._exit(7)


def hangs() -> Finding:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(["sleep", "600"])
    Path(os.environ["DOCTOR_TEST_PIDS"]).write_text(f"{os.getpid()} {child.pid}")
    time.sleep(600)
    return good()


def verbose() -> Finding:
    return Finding(OK, "x" * 1_000_000)  # more than a pipe holds


def test_checks_that_fail_spoil_themselves_alone() -> None:
    checks = [raises, refuses, exits, crashes, vanishes, good, verbose]
    found = run_isolated(checks, timeout_s=30)
    assert [(finding.status, finding.summary) for finding in found[:6]] == [
        (PROBLEM, "RuntimeError: first line"),
        (PROBLEM, "it is broken"),
        (PROBLEM, "SystemExit: 0"),
        (PROBLEM, "crashed (SIGSEGV) in a native library"),
        (PROBLEM, "ended without an answer (exit status 7)"),
        (OK, "good"),
    ]
    assert found[1].fix == "mend it so"
    assert found[5].facts["pid"] != os.getpid()
    assert len(found[6].summary) == 1_000_000


def test_the_fix_of_a_crash_shows_where(monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = run_isolated([raises], timeout_s=30)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    command = str(found.fix).removeprefix("see where: ")
    result = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert "RuntimeError: first line" in result.stderr


def test_a_check_that_hangs_is_ended_with_all_it_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCTOR_TEST_PIDS", str(tmp_path / "pids"))
    hung, fine = run_isolated([hangs, good], timeout_s=5)
    assert (hung.status, hung.summary) == (PROBLEM, "no answer within 5 s")
    assert fine.status == OK
    pids = (tmp_path / "pids").read_text().split()
    assert len(pids) == 2
    wait_for(lambda: not any(is_running(pid) for pid in pids))  # the system takes a moment to end what is killed


def is_running(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# The diagnosis


def findings(**changes: Finding) -> dict[str, Finding]:
    return {key: changes.get(key, Finding(OK, "fine")) for key in CHECKS}


def test_the_table() -> None:
    missing = Finding(MISSING, "not installed", {}, "training", "pip install it")
    wrong = Finding(PROBLEM, "no permission", {}, None, "usermod")
    lines = (
        Diagnosis(findings(torch=missing, cameras=wrong, gpu_use=Finding(NONE, "no NVIDIA GPU"))).table().splitlines()
    )
    assert lines[0] == "ok       Python         fine"
    assert "PROBLEM  cameras        no permission" in lines
    assert "-        models on GPU  no NVIDIA GPU" in lines
    assert lines[len(CHECKS) :] == [
        *("", "Streams run on this machine, on the processor."),
        *("", "To fix:", "  cameras", "      usermod"),
        *("", "To add, if wanted:", "  PyTorch, for training", "      pip install it"),
    ]


def test_what_streams_run_on() -> None:
    unused = Finding(PROBLEM, "cuda-core is not installed here", fix="install it")
    assert Diagnosis(findings()).runs_on == "gpu"
    assert "Streams run on this machine, on the GPU." in Diagnosis(findings()).table()
    assert Diagnosis(findings(gpu_use=Finding(NONE, "no NVIDIA GPU"))).runs_on == "cpu"
    assert Diagnosis(findings(gpu_use=unused)).runs_on == "cpu"
    assert (
        ", on the processor, not on the GPU: cuda-core is not installed here."
        in Diagnosis(findings(gpu_use=unused)).table()
    )


@pytest.mark.parametrize("key", ["model", "opencv"])
def test_without_the_base_nothing_streams(key: str) -> None:
    broken = Diagnosis(findings(**{key: Finding(PROBLEM, "it crashed")}))
    assert broken.runs_on is None
    assert "Nothing can be streamed" in broken.table()
    with pytest.raises(SsdEdgeError, match="it crashed"):
        broken.check()
    Diagnosis(findings()).check()


@pytest.mark.parametrize("arguments", [[], ["--json"], ["--json", "FILE"]])
def test_the_commands_outputs_and_exit_status(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "doctor.json"
    result = Diagnosis(findings(model=Finding(PROBLEM, "crashed")))
    monkeypatch.setattr(diagnosis, "diagnose", lambda: result)
    assert cli.main(["doctor", *(str(file) if word == "FILE" else word for word in arguments)]) == 1
    said = capsys.readouterr()
    assert said.out == (result.to_json() if arguments == ["--json"] else result.table()) + "\n"
    assert said.err.startswith("ssd-edge: error: nothing can be streamed on this machine: bundled model: crashed")
    assert file.exists() == ("FILE" in arguments)


def test_the_doctor_itself_imports_nothing_that_may_not_load() -> None:
    code = (
        "import sys, ssd_edge.runtime.doctor.diagnosis; "
        "print(*{'numpy', 'cv2', 'onnxruntime', 'torch', 'cuda', 'tensorrt', 'tqdm'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (0, "\n")


def test_the_command_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "s3cret-of-the-environment"
    monkeypatch.setenv("CAMERA_PASSWORD", secret)
    command = [
        sys.executable,
        "-c",
        "import sys; from ssd_edge.cli.main import main; sys.exit(main(['doctor', '--json']))",
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stderr) == (0, "")
    assert secret not in result.stdout
    report = json.loads(result.stdout)
    assert set(report) == {"format", "ssd_edge", "runs_on", "checks"}
    assert report["format"] == 1
    assert report["runs_on"] in ("cpu", "gpu")
    assert list(report["checks"]) == list(CHECKS)
    assert report["checks"]["model"]["facts"]["found"] == ["qr_code"]
    documented = documented_facts()
    assert set(documented) == set(CHECKS)
    for key, finding in report["checks"].items():
        assert set(finding) == {"status", "summary", "facts", "gives", "fix"}
        assert finding["status"] in (OK, NONE, MISSING, PROBLEM)
        assert set(finding["facts"]) in (set(), documented[key]), key


def documented_facts() -> dict[str, set[str]]:
    """The keys of `facts` of each check, as docs/doctor.md has them."""
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    return {key: set(re.findall(r"`(\w+)`", facts)) for key, facts in rows}
