"""The container image for a Jetson: what its Dockerfile says, and what its command does where the GPU is not seen."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from ssd_edge.runtime.gpu_use import look_for_gpu
from tests.fakes.cuda_driver import FakeDriver, compile_driver

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "/etc/ssd-edge/streams.toml"
CLI = "import sys; from ssd_edge.cli.main import main; sys.exit(main(sys.argv[1:]))"


def instructions(name: str) -> list[tuple[str, str]]:
    """Each instruction of a Dockerfile with its arguments; comments left out, continued lines joined."""
    text = (ROOT / "service" / name).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    joined = re.sub(r" *\\\n *", " ", "\n".join(lines))
    parts = [line.partition(" ") for line in joined.splitlines() if line]
    return [(instruction, arguments) for instruction, _, arguments in parts]


def arguments_of(name: str, instruction: str) -> list[str]:
    return [arguments for found, arguments in instructions(name) if found == instruction]


def command(model: Path, folder: Path) -> list[str]:
    """The arguments of ssd-edge when a container of the image starts, with a configuration that is here."""
    assert arguments_of("Dockerfile.jetson", "ENTRYPOINT") == ['["ssd-edge"]']
    (cmd,) = arguments_of("Dockerfile.jetson", "CMD")
    config, picture = folder / "streams.toml", folder / "red.png"
    cv2.imwrite(str(picture), np.full((48, 64, 3), (0, 0, 255), np.uint8))
    config.write_text(f'model = "{model}"\n[[source]]\nuri = "{picture}"\n')
    words = json.loads(cmd)
    assert CONFIG in words
    return [str(config) if word == CONFIG else word for word in words]


def test_building_the_image_of_a_jetson_does_not_import_tensorrt() -> None:
    runs = arguments_of("Dockerfile.jetson", "RUN")
    assert len(runs) == 3
    assert not any("tensorrt" in run for run in runs)
    assert any("-c 'import cv2'" in run for run in runs)


def test_the_image_of_a_jetson_has_what_runs_models_and_decodes_on_its_gpu() -> None:
    runs = arguments_of("Dockerfile.jetson", "RUN")
    apt = next(run for run in runs if "apt-get install" in run)
    assert {"kmod", "python3-gi"} <= set(apt.split())
    (pip,) = [run for run in runs if "pip install" in run]
    assert "--system-site-packages" in pip
    assert re.search(r"'\.\[cuda12,", pip)


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.jetson"])
def test_images_have_every_folder_of_the_package(name: str) -> None:
    links = {path.name for path in (ROOT / "ssd_edge").iterdir() if path.is_symlink()}
    assert {"ssd_edge", *links} <= {copied.split()[0] for copied in arguments_of(name, "COPY")}


def test_docs_install_the_extra_of_a_jetson() -> None:
    text = (ROOT / "docs" / "service.md").read_text(encoding="utf-8")
    assert "/opt/ssd-edge/bin/pip install '.[cuda12,web,mqtt,track]'" in text
    assert "nvidia-l4t-dla-compiler" in text


@pytest.fixture
def driver(tmp_path: Path) -> FakeDriver:
    return compile_driver(tmp_path)


def test_without_the_nvidia_runtime_it_says_how_to_start_the_container(
    model_path: Path, tmp_path: Path, driver: FakeDriver
) -> None:
    if look_for_gpu().present:
        pytest.skip("this machine has an NVIDIA GPU")
    (tmp_path / "libcuda.so.1").unlink()
    result = driver.run(CLI, *command(model_path, tmp_path))
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("ssd-edge: error: there is no NVIDIA GPU here")
    assert "--runtime nvidia" in result.stderr


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "import sys; sys.modules.update(dict.fromkeys(['tensorrt', 'tensorrt_rtx_bindings', 'tensorrt_rtx'])); ",
            "TensorRT is not installed, which the NVIDIA GPU needs; ",
        ),
        ("", "libnvdla_compiler.so: cannot open shared object file; this library is the Jetson's own: "),
    ],
)
def test_without_tensorrt_it_ends_with_the_reason(
    model_path: Path, tmp_path: Path, driver: FakeDriver, code: str, message: str
) -> None:
    pytest.importorskip("cuda.core")
    broken = tmp_path / "tensorrt.py"
    broken.write_text("raise ImportError('libnvdla_compiler.so: cannot open shared object file')")
    add_path = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); "
    result = driver.run(add_path + code + CLI, *command(model_path, tmp_path), SSD_EDGE_CUDA="core")
    said = [line for line in result.stderr.splitlines() if not line.startswith("cu")]
    assert result.returncode == 1
    (error,) = said
    assert error.startswith("ssd-edge: error: ")
    assert message in error
