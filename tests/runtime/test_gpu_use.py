"""Why models do not run on an NVIDIA GPU, by the kind of machine and what it lacks; and that `stream` says it."""

import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import pytest

from ssd_edge.errors import SsdEdgeError
from ssd_edge.runtime import gpu_use
from ssd_edge.runtime.gpu_use import NO_DEVICE, NO_LIBRARY, GpuUse, look_for_gpu
from tests.fakes.cuda_driver import FakeDriver, compile_driver
from tests.runtime.host.machines import DESKTOP, PCI_GPU

ORIN = {"etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n"}
THOR = {"etc/nv_tegra_release": "# R38 (release), REVISION: 2.0, GCID: 41844464, BOARD: generic, EABI: aarch64\n"}
JETPACK_6_0 = {"etc/nv_tegra_release": "# R36 (release), REVISION: 3.0, GCID: 36191598, BOARD: generic\n"}
ORIN_KERNEL = {"proc/sys/kernel/osrelease": "5.15.148-tegra\n"}
OLDER_DRIVER = {"proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar 5\n"}
ORIN_DRIVER = {"proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  x\n"}
CONTAINER = {".dockerenv": ""}
SYSTEM_TENSORRT = {"usr/lib/python3.10/dist-packages/tensorrt/__init__.py": ""}
ALL = ("cuda.core", "tensorrt")
Look = Callable[..., GpuUse]


@pytest.fixture
def look(machine: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Look:
    """What is found on a machine of these files, with these packages and this answer of the driver."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def find(*trees: dict[str, str], driver: str | None = None, installed: tuple[str, ...] = ALL) -> GpuUse:
        monkeypatch.setattr(gpu_use, "driver_problem", lambda: driver)
        monkeypatch.setattr(gpu_use, "is_installed", installed.__contains__)
        return look_for_gpu(machine(*trees))

    return find


@pytest.mark.parametrize("installed", [ALL, ("pycuda", "tensorrt"), ("cuda.core", "tensorrt_rtx_bindings")])
def test_nothing_is_missing(look: Look, installed: tuple[str, ...]) -> None:
    use = look(ORIN, installed=installed)
    assert use == GpuUse(True, None)
    use.check()


@pytest.mark.parametrize(
    ("trees", "installed", "found", "fix"),
    [
        ([ORIN], ("tensorrt",), "cuda-core is not installed, which", "pip install '.[cuda12]'"),
        ([THOR], ("tensorrt",), "cuda-core is not installed, which", "pip install '.[cuda13]'"),
        ([DESKTOP], ("tensorrt",), "cuda-core is not installed, which", "pip install '.[cuda13]'"),
        ([DESKTOP], ("cuda.core",), "TensorRT is not installed, which", "pip install '.[tensorrt]'"),
        ([DESKTOP], (), "cuda-core and TensorRT are not installed, which", "pip install '.[tensorrt]'"),
        ([OLDER_DRIVER], (), "cuda-core and TensorRT are", "pip install '.[cuda12]' 'tensorrt-cu12>=10.3'"),
        ([ORIN], ("cuda.core",), "TensorRT is not installed, which", "sudo apt install nvidia-jetpack"),
        ([ORIN, SYSTEM_TENSORRT], ("cuda.core",), "TensorRT is not", "venv --system-site-packages .venv"),
        ([ORIN, SYSTEM_TENSORRT], (), "cuda-core and TensorRT are", ".[cuda12]', and JetPack's TensorRT is there"),
        ([JETPACK_6_0], ("tensorrt",), "JetPack 6.0 has a TensorRT that is too old", "flash JetPack 6.1 or later"),
    ],
)
def test_packages_that_are_missing(
    look: Look,
    monkeypatch: pytest.MonkeyPatch,
    trees: list[dict[str, str]],
    installed: tuple[str, ...],
    found: str,
    fix: str,
) -> None:
    monkeypatch.setattr(sys, "base_prefix", "/usr")  # a virtual environment
    use = look(*trees, installed=installed)
    assert use.present
    problem, _, remedy = str(use.obstacle).partition("; ")
    assert found in problem
    assert fix in remedy
    with pytest.raises(SsdEdgeError, match=found):
        use.check()


@pytest.mark.parametrize(
    ("trees", "driver", "words"),
    [
        ([ORIN_KERNEL, CONTAINER], NO_LIBRARY, "this container does not see .*; .*docker run --runtime nvidia"),
        ([ORIN, CONTAINER], NO_DEVICE, "this container does not see .*; .*docker run --runtime nvidia"),
        ([DESKTOP, CONTAINER], NO_LIBRARY, "this container does not see .*; .*docker run --gpus all"),
        ([DESKTOP], NO_LIBRARY, r"driver 580\.65\.06 is loaded, but libcuda\.so\.1 is not found; .*--gpus all"),
        ([DESKTOP], NO_LIBRARY, r"; .*: sudo apt install libnvidia-compute-580 \(Ubuntu; Debian: libcuda1\)$"),
        ([ORIN, ORIN_DRIVER], NO_LIBRARY, r"driver 540\.4\.0 is loaded, .*--runtime nvidia; .* nvidia-l4t-cuda$"),
        ([ORIN], NO_LIBRARY, r"no driver \(libcuda.so.1\) for it; sudo apt install nvidia-jetpack"),
        ([PCI_GPU], NO_LIBRARY, r"no driver \(libcuda.so.1\) for it; sudo ubuntu-drivers install"),
        ([DESKTOP], "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "cuInit failed: .*; .*restart the machine"),
    ],
)
def test_a_driver_that_is_hidden_or_fails(look: Look, trees: list[dict[str, str]], driver: str, words: str) -> None:
    use = look(*trees, driver=driver)
    assert use.present
    with pytest.raises(SsdEdgeError, match=words):
        use.check()


@pytest.mark.parametrize("driver", [NO_LIBRARY, NO_DEVICE])
@pytest.mark.parametrize("trees", [[], [CONTAINER]])
def test_a_machine_without_a_gpu(look: Look, trees: list[dict[str, str]], driver: str) -> None:
    use = look(*trees, driver=driver, installed=())
    assert not use.present
    with pytest.raises(SsdEdgeError, match=r"there is no NVIDIA GPU here, or .* on a Jetson --runtime nvidia"):
        use.check()


def test_a_gpu_that_is_hidden_on_purpose_is_not_missed(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    assert look(DESKTOP, driver=NO_DEVICE).present
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not look(DESKTOP, driver=NO_DEVICE).present
    assert look(DESKTOP, driver=NO_LIBRARY).present  # that is not what hides it


# On a driver that answers


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> FakeDriver:
    return compile_driver(tmp_path_factory.mktemp("driver"))


@pytest.mark.parametrize(
    ("fails", "problem"),
    [
        ("", "None"),
        ("cuInit=100", "CUDA_ERROR_NO_DEVICE"),
        ("cuInit=803", "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"),
    ],
)
def test_the_driver_is_asked(driver: FakeDriver, fails: str, problem: str) -> None:
    code = "from ssd_edge.runtime import gpu_use; print(gpu_use.driver_problem())"
    assert driver.run(code, FAKE_CUDA_FAILS=fails).stdout == f"{problem}\n"


def test_no_driver_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_use, "DRIVER_LIBRARY", "libcuda_that_is_not_there.so.1")
    assert gpu_use.driver_problem() == NO_LIBRARY


def test_stream_says_once_which_extra_is_missing(driver: FakeDriver, model_path: Path, tmp_path: Path) -> None:
    """A GPU with its driver, and nothing of what runs models on it: the case of a Jetson without the extra cuda12."""
    cv2.imwrite(str(tmp_path / "red.png"), np.full((48, 64, 3), (0, 0, 255), np.uint8))
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['cuda', 'pycuda', 'tensorrt', 'tensorrt_rtx_bindings', "
        "'tensorrt_rtx'])); from ssd_edge.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    command = ["stream", "--source", str(tmp_path / "red.png"), "--model", str(model_path)]
    result = driver.run(code, *command)
    said = [line for line in result.stderr.splitlines() if not line.startswith("cu")]
    assert result.returncode == 0, result.stderr
    (warning,) = [line for line in said if "GPU" in line]
    missing = (
        "cuda-core and TensorRT are not installed, which the NVIDIA GPU needs; in the folder of ssd-edge: pip install"
    )
    assert warning.startswith(f"{model_path} runs on the CPU, not on the NVIDIA GPU: {missing} '.[")
    chosen = driver.run(code, *command, "--backend", "onnxruntime")
    assert (chosen.returncode, "GPU" in chosen.stderr) == (0, False)
    refused = driver.run(code, *command, "--backend", "tensorrt")
    assert refused.returncode == 1
    assert f"ssd-edge: error: {missing} '.[" in refused.stderr


def test_packages_for_another_cuda_than_the_drivers(driver: FakeDriver, model_path: Path, tmp_path: Path) -> None:
    """The extra cuda13 on JetPack 6: all is installed, and only importing it shows that it does not fit."""
    for package in ("cuda.core", "tensorrt_rtx_bindings"):
        pytest.importorskip(package)
    if not version("cuda-bindings").startswith("13."):
        pytest.skip("cuda-bindings of another CUDA than 13")
    cv2.imwrite(str(tmp_path / "red.png"), np.full((48, 64, 3), (0, 0, 255), np.uint8))
    jetpack_6 = {"FAKE_CUDA_VERSION": "12060", "SSD_EDGE_CUDA": "core"}
    reason = "the NVIDIA driver here runs CUDA up to 12.6, and cuda-bindings 13"
    command = ["stream", "--source", str(tmp_path / "red.png"), "--model", str(model_path)]
    result = driver.run(
        "import sys; from ssd_edge.cli.main import main; sys.exit(main(sys.argv[1:]))", *command, **jetpack_6
    )
    assert result.returncode == 0, result.stderr
    assert f"{model_path} runs on the CPU, not on the NVIDIA GPU: {reason}" in result.stderr
    code = "from ssd_edge.runtime.doctor.gpu import gpu_use as f; print(f().status, f().summary, f().fix)"
    doctor = driver.run(code, **jetpack_6).stdout
    assert doctor.startswith(f"problem {reason}")
    assert "pip install '.[cuda12]'" in doctor


def test_looking_imports_no_package_for_the_gpu(driver: FakeDriver) -> None:
    code = (
        "import sys; from ssd_edge.runtime.gpu_use import look_for_gpu; look_for_gpu(); "
        "print(*{'cuda.core', 'cuda.bindings', 'pycuda', 'tensorrt', 'tensorrt_rtx_bindings'} & set(sys.modules))"
    )
    result = driver.run(code)
    assert (result.returncode, result.stdout) == (0, "\n")
