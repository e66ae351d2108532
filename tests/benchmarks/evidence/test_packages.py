"""Which packages a machine lacks, from a folder of tiny wheels instead of an index."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from benchmarks.evidence import main, packages, prepare
from benchmarks.evidence.have import read_have, stands_in
from tests.benchmarks.evidence.wheels import HAVE, PYPROJECT, ROOT, TARGET, collect


def test_what_a_machine_has(tmp_path: Path) -> None:
    (tmp_path / "have").write_text(HAVE)
    assert read_have(tmp_path / "have") == {
        "numpy": "2.5.2",
        "opencv-python-headless": None,
        "torch": "2.11.0",
        "pytest": None,
        "cuda-core": "1.0.1",
        "cuda-pathfinder": None,
    }
    (tmp_path / "have").write_text("numpy\n<html>\n")
    with pytest.raises(
        ValueError, match="line 2: '<html>' is no package; expected name, name==version or name version"
    ):
        read_have(tmp_path / "have")


def test_what_is_missing_is_collected_with_what_it_needs(wheels: dict[str, packages.Wheel]) -> None:
    assert {name: wheel.version for name, wheel in wheels.items()} == {
        "plain": "2.1",
        "zxing-cpp": "3.1",
        "deep": "2.5",  # both who need it ask for less than 3
        "extra-less": "1",
        "av": "19.0",
        "pynvvideocodec": "2.3",
        "of-nvidia": "1",
        "tensorrt-rtx-cu13-libs": "1.8",
    }
    assert wheels["deep"].wanted_by == {"plain", "zxing-cpp"}
    base, optional = prepare.units_of(list(wheels.values()))
    assert {wheel.name for wheel in base.wheels} == {"plain", "zxing-cpp", "deep", "extra-less"}
    assert [(unit.name, unit.step, [wheel.name for wheel in unit.wheels]) for unit in optional] == [
        ("av", "nvdec", ["av"]),
        ("pynvvideocodec", "nvdec", ["pynvvideocodec", "of-nvidia"]),
        ("TensorRT-RTX", "rtx", ["tensorrt-rtx-cu13-libs"]),
    ]


def test_a_version_that_is_too_old_is_replaced(index: Path, tmp_path: Path) -> None:
    small = "[project]\ndependencies = []\n[project.optional-dependencies]\n"
    small += "".join(f"{extra} = []\n" for extra in (*packages.EXTRAS, "dev"))
    pyproject = small.replace("cuda13 = []", 'cuda13 = ["cuda-core>=1.0.1"]')
    have = "cuda-core 1.0.0\npynvvideocodec\ncuda-pathfinder 1.5\n"
    assert {name: wheel.replaces for name, wheel in collect(tmp_path, have, pyproject).items()} == {
        "cuda-core": "1.0.0"
    }
    assert collect(tmp_path, have.replace("1.0.0", "1.0.1"), pyproject) == {}
    pyproject = small.replace("demo = []", 'demo = ["of-another-python"]')
    with pytest.raises(packages.PrepareError, match=r"wheels for Python 3.12.*\n*.*of-another-python"):
        collect(tmp_path, have, pyproject)


def test_what_may_be_too_old_travels(index: Path, tmp_path: Path) -> None:
    """The list does not say which version of CUDA's packages the machine has."""
    pyproject = PYPROJECT.replace('"cuda-core>=1.0.1"', '"cuda-core>=1.0.1", "cuda-bindings>=13.0.2,<14"')
    have = HAVE.replace("cuda_core 1.0.1", "cuda_core\ncuda-bindings").replace("pytest ", "pytest\nav\n#")
    found = collect(tmp_path, have, pyproject)
    young = {name: (found[name].version, found[name].at_least, found[name].replaces) for name in packages.YOUNG}
    assert young == {
        "cuda-core": ("1.2", "1.0.1", None),
        "cuda-bindings": ("13.4", "13.0.2", None),
        "cuda-pathfinder": ("1.9", "1.4.2", None),
    }
    assert "av" not in found  # others are there without a version, too
    base, _ = prepare.units_of(list(found.values()))
    assert {wheel.name for wheel in base.wheels} >= set(packages.YOUNG)


@pytest.mark.parametrize(
    ("bounds", "oldest"),
    [(">=1.2,<3", "1.2"), (">=1.10,>=1.9", "1.10"), ("==12.6.*", "12.6"), ("<3", None), ("", None)],
)
def test_the_oldest_version_that_will_do(bounds: str, oldest: str | None) -> None:
    assert packages.oldest(SpecifierSet(bounds)) == oldest


def test_pytorch_and_numpy_must_come_with_the_machine(tmp_path: Path) -> None:
    with pytest.raises(packages.PrepareError, match=r"the machine has torch 2\.3, and torch>=2\.4 is required"):
        collect(tmp_path, HAVE.replace("2.11.0", "2.3"))
    with pytest.raises(packages.PrepareError, match="the machine has no numpy"):
        collect(tmp_path, HAVE.replace("numpy==2.5.2", ""))


def test_requirements_of_this_project_and_the_list_of_the_first_target() -> None:
    names = {each.name for each in packages.project_requirements(ROOT / "pyproject.toml", TARGET)}
    assert names >= {"numpy", "opencv-python", "pycocotools", "zxing-cpp", "onnxscript", "cuda-core", "av", "pytest"}
    assert "tensorrt-rtx-cu13-libs" in names
    assert not names & {"ssd-edge", "tomli", "ruff", "uvicorn"}
    have = read_have(main.HAVE)
    assert {name for name in names if stands_in(name, have) is None} == {
        *("pycocotools", "zxing-cpp", "av", "pynvvideocodec", "tensorrt-rtx-cu13-libs", "tensorrt-rtx-cu13-bindings"),
    }


def test_markers_are_those_of_the_target() -> None:
    for text, applies in (
        ("a; python_version < '3.11'", False),
        ("a; python_version >= '3.12' and platform_machine == 'x86_64'", True),
        ("a; sys_platform == 'win32'", False),
        ("a; extra == 'b'", False),
    ):
        assert packages.applies(Requirement(text), TARGET) == applies
    assert packages.applies(Requirement("a; extra == 'b'"), TARGET, {"b"})
