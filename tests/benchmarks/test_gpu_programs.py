"""Programs and tests for a GPU start where optional packages are absent: on a Jetson, and on a machine with torch."""

import ast
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = sorted(
    f"{path.parent.name}.{path.stem}"
    for folder in ("evidence", "gpu")
    for path in (ROOT / "benchmarks" / folder).glob("*.py")
    if '__name__ == "__main__"' in path.read_text()
)
PREPARES = "evidence.samples"  # runs where the others are prepared, with all packages
# What is absent from a Jetson with `.[cuda12]`, and from a machine with torch for CUDA.
JETSON = (
    *("torch", "torchvision", "onnx", "onnxscript", "pycocotools", "zxingcpp"),
    *("matplotlib", "PIL", "yaml", "safetensors"),
)
TORCH_MACHINE = ("pycocotools", "zxingcpp", "av")


def run_without(packages: tuple[str, ...], code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code in the repository's root, where importing any of the packages fails as if it were not installed."""
    block = f"import sys; sys.modules.update(dict.fromkeys({packages!r}))\n"
    return subprocess.run(
        [sys.executable, "-c", block + code, *arguments], capture_output=True, text=True, timeout=300, cwd=ROOT
    )


def run_program(packages: tuple[str, ...], name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = "import runpy; runpy.run_module(f'benchmarks.{sys.argv[0]}', run_name='__main__', alter_sys=True)"
    return run_without(packages, f"sys.argv = sys.argv[1:]; {code}", name, *arguments)


def arguments_of(name: str, folder: Path) -> list[str]:
    """What a program needs besides its options."""
    if name != "gpu.nvdec":
        return []
    video = folder / "video.mp4"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    for level in range(0, 250, 50):
        writer.write(np.full((48, 64, 3), level, np.uint8))
    writer.release()
    return [str(video)]


def test_the_programs_are_found() -> None:
    assert {"gpu.measure", "gpu.nms_cases", "gpu.nvdec", "gpu.rtx"} <= set(PROGRAMS)


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name != PREPARES])
def test_help(name: str) -> None:
    result = run_program(JETSON, name, "--help")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(("usage: gpu_evidence.sh", f"usage: {name.partition('.')[2]}"))


@pytest.mark.parametrize("name", ["gpu.measure", "gpu.nms_cases", "gpu.nvdec", "gpu.rtx"])
def test_dry_run_on_a_jetson(name: str, tmp_path: Path) -> None:
    result = run_program(JETSON, name, *arguments_of(name, tmp_path), "--dry-run")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1].startswith("dry run: ")


@pytest.mark.slow
def test_dry_run_on_a_machine_with_torch(tmp_path: Path) -> None:
    """All sections, with torchvision's models; SSD300's random weights take most of the time."""
    for package in ("torch", "torchvision", "onnx", "safetensors"):
        pytest.importorskip(package)
    result = run_program(TORCH_MACHINE, "gpu.measure", "--dry-run", "--map", "bundled", str(tmp_path), "all")
    assert result.returncode == 0, result.stdout + result.stderr
    rows = [ast.literal_eval(line) for line in result.stdout.splitlines() if line.startswith("{")]
    prepared = {row["prepared"]: row for row in rows if "prepared" in row}
    assert not any("failed" in row for row in rows)
    assert prepared[f"mAP of bundled {tmp_path} all"]["not_run"] == "pycocotools not installed"
    assert prepared["torchvision's ssd300_vgg16, on the CPU"]["detections"] > 0
    assert prepared["torchvision's ssdlite320_mobilenet_v3_large, on the CPU"]["detections"] > 0
    assert prepared["torchvision's suppression, on the CPU"]["detections"] == 200
    assert prepared["arithmetic of ssd300_vgg16"]["tera_flop"] == pytest.approx(0.0697, abs=1e-4)


def test_the_gpus_tests_are_collected_on_a_jetson() -> None:
    code = "import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    options = ("-p", "no:cacheprovider", "-q", "--collect-only", "-m", "gpu")  # of all folders
    result = run_without(JETSON, code, *options)
    assert result.returncode == 0, result.stdout + result.stderr
    for test in ("test_cuda_gpu.py::test_kernels_run", "test_gpu.py::test_nms_of_hard_cases"):
        assert test in result.stdout
    assert "onnx_file/test_check.py:0: onnx is not installed" in result.stdout


def test_the_gpus_tests_have_their_model_on_a_machine_with_torch(tmp_path: Path) -> None:
    """What the tests of PyTorch on the GPU need is made without the packages of the export."""
    for package in ("torch", "safetensors"):
        pytest.importorskip(package)
    code = (
        "from pathlib import Path; from tests.detectors.tiny_detector import Tiny; "
        "print(Tiny(Path(sys.argv[1])).checkpoint.stat().st_size)"
    )
    result = run_without((*TORCH_MACHINE, "onnx", "onnxscript"), code, str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 0


def test_a_module_that_fails_for_another_reason_is_an_error(tmp_path: Path) -> None:
    """Only what an optional package is wanting for is skipped."""
    (tmp_path / "test_absent.py").write_text("import onnx\n")
    (tmp_path / "test_wrong.py").write_text("import nothing_of_this_name\n")
    (tmp_path / "conftest.py").write_bytes((ROOT / "tests/conftest.py").read_bytes())
    code = "import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    result = run_without(JETSON, code, "-p", "no:cacheprovider", "-q", "-rs", f"--rootdir={tmp_path}", str(tmp_path))
    assert result.returncode == 2
    assert "test_absent.py:0: onnx is not installed" in result.stdout
    assert "No module named 'nothing_of_this_name'" in result.stdout
