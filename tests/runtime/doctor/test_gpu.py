"""Checks of the GPU, of the packages for CUDA and of TensorRT."""

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from ssd_edge.errors import MissingDependencyError, SsdEdgeError
from ssd_edge.runtime import gpu_use
from ssd_edge.runtime.cuda import core as cuda_core
from ssd_edge.runtime.cuda import find
from ssd_edge.runtime.cuda.base import Gpu
from ssd_edge.runtime.cuda.errors import CudaError
from ssd_edge.runtime.doctor import gpu
from ssd_edge.runtime.doctor.finding import MISSING, NONE, OK, PROBLEM, Finding, problem
from ssd_edge.runtime.host.kind import read_host
from ssd_edge.runtime.tensorrt import versions
from tests.runtime.host.machines import DESKTOP, ORIN, PCI_GPU


@pytest.fixture
def smi(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """What nvidia-smi prints, and its exit status."""

    def answer(text: str, status: int = 0) -> None:
        monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/nvidia-smi")
        result = SimpleNamespace(stdout=text, returncode=status)
        monkeypatch.setattr(subprocess, "run", lambda *_, **__: result)

    monkeypatch.setattr(shutil, "which", lambda _: None)
    return answer


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its library is there, and reports an error."""
    monkeypatch.setattr(gpu_use, "driver_problem", lambda: "CUDA_ERROR_UNKNOWN")


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

    monkeypatch.setattr(gpu, "load_tensorrt", missing)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)


@pytest.mark.usefixtures("no_tensorrt")
def test_tensorrt_is_missed_where_there_is_a_gpu(machine: Callable[..., Path]) -> None:
    assert (gpu.tensorrt(machine()).status, gpu.tensorrt_rtx(machine()).status) == (NONE, NONE)
    found = gpu.tensorrt(machine(DESKTOP))
    assert (found.status, found.fix) == (MISSING, "in the folder of ssd-edge: pip install '.[tensorrt]'")


@pytest.mark.usefixtures("no_tensorrt")
def test_tensorrt_rtx_in_place_of_tensorrt(machine: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "tensorrt_rtx")
    assert gpu.tensorrt(machine(DESKTOP)) == Finding(NONE, "TensorRT-RTX takes its place")


@pytest.mark.usefixtures("no_tensorrt")
def test_tensorrt_on_a_jetson(machine: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu.tensorrt_rtx(machine(ORIN)).status == NONE
    assert gpu.tensorrt(machine(ORIN)).fix == "sudo apt install nvidia-jetpack"
    root = machine({"usr/lib/python3.10/dist-packages/tensorrt/__init__.py": ""})
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    assert "python3 -m venv --system-site-packages .venv" in str(gpu.tensorrt(root).fix)
    monkeypatch.setattr(sys, "prefix", "/usr")
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
    monkeypatch.setattr(gpu, "load_tensorrt", lambda: trt)
    assert gpu.gpu_use() == found
