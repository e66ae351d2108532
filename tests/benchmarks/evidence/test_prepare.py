"""`gpu_evidence.sh --prepare`, from a folder of tiny wheels instead of an index, and putting its packages to use."""

import hashlib
import io
import json
import lzma
import random
import subprocess
import sys
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from benchmarks.evidence import carry as gpu_carry
from benchmarks.evidence import have as gpu_have
from benchmarks.evidence import main as gpu_evidence
from benchmarks.evidence import packages as gpu_packages
from benchmarks.evidence import prepare as gpu_prepare

ROOT = Path(__file__).parents[3]

TARGET = gpu_packages.Target()
NATIVE = "cp312-cp312-manylinux_2_28_x86_64"
PYPROJECT = """
[project]
dependencies = ["numpy>=1.23", "opencv-python>=4.8", "plain>=2", "tomli; python_version < '3.11'"]
[project.optional-dependencies]
demo = ["zxing-cpp>=3"]
train = ["torch>=2.4"]
export = []
cuda13 = ["cuda-core>=1.0.1"]
video = ["av>=13"]
rtx = ["tensorrt-rtx-cu13-libs>=1.7", "ssd-edge[cuda13]"]
dev = ["ssd-edge[rtx]", "pytest>=8", "ruff"]
"""
HAVE = """Package  Version
-------- -------
numpy==2.5.2
opencv-python-headless
torch 2.11.0
pytest    # any
cuda_core 1.0.1
cuda-pathfinder
"""


def make_wheel(folder: Path, name: str, version: str, *needs: str, tag: str = "py3-none-any", size: int = 0) -> Path:
    """A wheel of one module, with `size` bytes of data."""
    module, info = name.replace("-", "_"), f"{name.replace('-', '_')}-{version}.dist-info"
    files = {
        f"{module}/__init__.py": f"version = {version!r}\n".encode(),
        f"{module}/data": random.Random(name).randbytes(size),  # what xz cannot make smaller
        f"{info}/METADATA": "\n".join(
            [
                "Metadata-Version: 2.1",
                f"Name: {name}",
                f"Version: {version}",
                *(f"Requires-Dist: {n}" for n in needs),
                "",
            ]
        ).encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: {tag}\n".encode(),
    }
    digests = {
        path: urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode() for path, data in files.items()
    }
    record = "".join(f"{path},sha256={digests[path]},{len(data)}\n" for path, data in files.items())
    path = folder / f"{module}-{version}-{tag}.whl"
    with ZipFile(path, "w") as archive:  # stored: as large as its content
        for name_in, data in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n".encode()}.items():
            archive.writestr(name_in, data)
    return path


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """All that pip finds."""
    folder = tmp_path_factory.mktemp("index")
    make_wheel(folder, "plain", "1.9")
    make_wheel(folder, "plain", "2.1", "deep<3; python_version >= '3.12'", "never; sys_platform == 'win32'", "numpy>=2")
    make_wheel(folder, "deep", "2.5", "extra-less; extra == 'more'")
    make_wheel(folder, "deep", "3.0")
    make_wheel(folder, "zxing-cpp", "3.1", "deep[more]<2.9", tag=NATIVE)
    make_wheel(folder, "extra-less", "1")
    make_wheel(folder, "av", "19.0", size=200_000, tag=NATIVE)
    make_wheel(folder, "cuda-core", "1.2", "cuda-pathfinder>=1.4.2")
    make_wheel(folder, "cuda-bindings", "13.4")
    make_wheel(folder, "cuda-bindings", "14.0")
    make_wheel(folder, "cuda-pathfinder", "1.9")
    make_wheel(folder, "pynvvideocodec", "2.3", "of-nvidia", size=100_000, tag=NATIVE)
    make_wheel(folder, "of-nvidia", "1", size=40_000)
    make_wheel(folder, "tensorrt-rtx-cu13-libs", "1.8", size=500_000, tag="py3-none-manylinux_2_28_x86_64")
    make_wheel(folder, "of-another-python", "1", tag="cp27-cp27mu-manylinux_2_28_x86_64")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_CONFIG_FILE", "/dev/null")
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(folder))
        for name in ("PIP_CONSTRAINT", "PIP_EXTRA_INDEX_URL"):
            patch.delenv(name, raising=False)
        yield folder


def collect(folder: Path, have: str = HAVE, pyproject: str = PYPROJECT) -> dict[str, gpu_packages.Wheel]:
    """Wheels for a `pyproject.toml` and a list of what is there."""
    (folder / "pyproject.toml").write_text(pyproject)
    (folder / "have").write_text(have)
    requirements = gpu_packages.project_requirements(folder / "pyproject.toml", TARGET)
    return gpu_packages.collect(requirements, gpu_have.read_have(folder / "have"), TARGET, folder / "cache")


@pytest.fixture(scope="module")
def wheels(index: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, gpu_packages.Wheel]:
    return collect(tmp_path_factory.mktemp("collected"))


def test_what_a_machine_has(tmp_path: Path) -> None:
    (tmp_path / "have").write_text(HAVE)
    assert gpu_have.read_have(tmp_path / "have") == {
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
        gpu_have.read_have(tmp_path / "have")


def test_what_is_missing_is_collected_with_what_it_needs(wheels: dict[str, gpu_packages.Wheel]) -> None:
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
    base, optional = gpu_prepare.units_of(list(wheels.values()))
    assert {wheel.name for wheel in base.wheels} == {"plain", "zxing-cpp", "deep", "extra-less"}
    assert [(unit.name, unit.step, [wheel.name for wheel in unit.wheels]) for unit in optional] == [
        ("av", "nvdec", ["av"]),
        ("pynvvideocodec", "nvdec", ["pynvvideocodec", "of-nvidia"]),
        ("TensorRT-RTX", "rtx", ["tensorrt-rtx-cu13-libs"]),
    ]


def test_a_version_that_is_too_old_is_replaced(index: Path, tmp_path: Path) -> None:
    small = "[project]\ndependencies = []\n[project.optional-dependencies]\n"
    small += "".join(f"{extra} = []\n" for extra in (*gpu_packages.EXTRAS, "dev"))
    pyproject = small.replace("cuda13 = []", 'cuda13 = ["cuda-core>=1.0.1"]')
    have = "cuda-core 1.0.0\npynvvideocodec\ncuda-pathfinder 1.5\n"
    assert {name: wheel.replaces for name, wheel in collect(tmp_path, have, pyproject).items()} == {
        "cuda-core": "1.0.0"
    }
    assert collect(tmp_path, have.replace("1.0.0", "1.0.1"), pyproject) == {}
    pyproject = small.replace("demo = []", 'demo = ["of-another-python"]')
    with pytest.raises(gpu_packages.PrepareError, match=r"wheels for Python 3.12.*\n*.*of-another-python"):
        collect(tmp_path, have, pyproject)


def test_what_may_be_too_old_travels(index: Path, tmp_path: Path) -> None:
    """The list does not say which version of CUDA's packages the machine has."""
    pyproject = PYPROJECT.replace('"cuda-core>=1.0.1"', '"cuda-core>=1.0.1", "cuda-bindings>=13.0.2,<14"')
    have = HAVE.replace("cuda_core 1.0.1", "cuda_core\ncuda-bindings").replace("pytest ", "pytest\nav\n#")
    found = collect(tmp_path, have, pyproject)
    young = {name: (found[name].version, found[name].at_least, found[name].replaces) for name in gpu_packages.YOUNG}
    assert young == {
        "cuda-core": ("1.2", "1.0.1", None),
        "cuda-bindings": ("13.4", "13.0.2", None),
        "cuda-pathfinder": ("1.9", "1.4.2", None),
    }
    assert "av" not in found  # others are there without a version, too
    base, _ = gpu_prepare.units_of(list(found.values()))
    assert {wheel.name for wheel in base.wheels} >= set(gpu_packages.YOUNG)


@pytest.mark.parametrize(
    ("bounds", "oldest"),
    [(">=1.2,<3", "1.2"), (">=1.10,>=1.9", "1.10"), ("==12.6.*", "12.6"), ("<3", None), ("", None)],
)
def test_the_oldest_version_that_will_do(bounds: str, oldest: str | None) -> None:
    assert gpu_packages.oldest(SpecifierSet(bounds)) == oldest


def test_pytorch_and_numpy_must_come_with_the_machine(tmp_path: Path) -> None:
    with pytest.raises(gpu_packages.PrepareError, match=r"the machine has torch 2\.3, and torch>=2\.4 is required"):
        collect(tmp_path, HAVE.replace("2.11.0", "2.3"))
    with pytest.raises(gpu_packages.PrepareError, match="the machine has no numpy"):
        collect(tmp_path, HAVE.replace("numpy==2.5.2", ""))


def test_requirements_of_this_project_and_the_list_of_the_first_target() -> None:
    names = {each.name for each in gpu_packages.project_requirements(ROOT / "pyproject.toml", TARGET)}
    assert names >= {"numpy", "opencv-python", "pycocotools", "zxing-cpp", "onnxscript", "cuda-core", "av", "pytest"}
    assert "tensorrt-rtx-cu13-libs" in names
    assert not names & {"ssd-edge", "tomli", "ruff", "uvicorn"}
    have = gpu_have.read_have(gpu_evidence.HAVE)
    assert {name for name in names if gpu_have.stands_in(name, have) is None} == {
        *("pycocotools", "zxing-cpp", "av", "pynvvideocodec", "tensorrt-rtx-cu13-libs", "tensorrt-rtx-cu13-bindings"),
    }


@pytest.mark.parametrize(
    ("budget", "placed"),
    [
        (110, [1, 1, 1]),  # 10 + 30 + 20 + 50
        (109, [1, 1, 2]),
        (60, [1, 1, 2]),
        (59, [1, 2, None]),  # 10 + 30 leaves 19
        (40, [1, 2, None]),
        (39, [2, 1, None]),
        (32, [2, 1, None]),
        (31, [None, 1, None]),
        (22, [None, 2, None]),
        (21, [None, None, None]),
    ],
)
def test_places(budget: int, placed: list[int | None]) -> None:
    assert gpu_prepare.place(10, 2, [30, 20, 50], budget) == placed


def test_too_small_a_budget() -> None:
    with pytest.raises(gpu_packages.PrepareError, match=r"what all steps need takes 10.0 MiB; the budget is 9.0 MiB"):
        gpu_prepare.place(10 << 20, 0, [], 9 << 20)


@pytest.fixture
def prepare(
    wheels: dict[str, gpu_packages.Wheel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[int], tuple[Path, Any]]:
    """Prepare with a budget in bytes: the folder and its manifest."""
    pytest.importorskip("zxingcpp")  # renders the images
    monkeypatch.setattr(gpu_prepare, "MANIFEST_BYTES", 10_000)
    monkeypatch.setattr(gpu_prepare, "PART_BYTES", 150_000)
    monkeypatch.setattr(gpu_prepare, "write_video", lambda path: path.write_bytes(b"v" * 100))

    def run(budget: int) -> tuple[Path, Any]:
        folder = tmp_path / "prepared"
        return folder, gpu_prepare.prepare(folder, budget, list(wheels.values()), TARGET, images=1)

    return run


def files_of(wheel: Path) -> dict[str, bytes]:
    with ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_all_in_one_package(prepare: Callable[[int], tuple[Path, Any]]) -> None:
    folder, manifest = prepare(2_000_000)
    assert [package["folder"] for package in manifest["packages"]] == ["1"]
    assert (folder / "1" / "images" / "annotations.json").is_file()
    (command,) = gpu_prepare.commands(folder, manifest)
    assert command == f"bash benchmarks/gpu_evidence.sh --minutes 9 --out runs/evidence-1 --carry {folder}/1"


def test_tensorrt_in_the_second_package(
    prepare: Callable[[int], tuple[Path, Any]], wheels: dict[str, gpu_packages.Wheel], tmp_path: Path
) -> None:
    folder, manifest = prepare(870_000)
    assert [package["holds"] for package in manifest["packages"]] == [
        ["what all steps need", "av", "pynvvideocodec"],
        ["TensorRT-RTX"],
    ]
    second = json.loads((folder / "2" / "manifest.json").read_text())
    (rtx,) = (wheel for wheel in second["wheels"] if wheel["name"] == "tensorrt-rtx-cu13-libs")
    assert [name[-7:] for name in rtx["parts"]] == [".part01", ".part02", ".part03", ".part04"]
    assert (second["images"], second["video"]) == (None, "video.mp4")
    assert gpu_prepare.commands(folder, manifest)[1].endswith(f"--carry {folder}/2 --steps versions,rtx")
    sizes = {each.name: sum(f.stat().st_size for f in each.rglob("*") if f.is_file()) for each in folder.glob("[12]")}
    assert sizes == {package["folder"]: package["bytes"] for package in manifest["packages"]}
    assert max(sizes.values()) <= 870_000
    joined = gpu_carry.joined(folder / "2", rtx, tmp_path)
    assert files_of(joined) == files_of(wheels[rtx["name"]].path)


def test_decoders_meet_in_the_second_package(prepare: Callable[[int], tuple[Path, Any]]) -> None:
    """The first has no room for both, and each is to be compared with the other."""
    folder, manifest = prepare(400_000)
    assert [package["holds"] for package in manifest["packages"]] == [
        ["what all steps need", "av"],
        ["pynvvideocodec", "av"],
        ["TensorRT-RTX"],
    ]
    assert manifest["packages"][1]["bytes"] <= 400_000
    assert gpu_prepare.commands(folder, manifest)[1].endswith(f"--carry {folder}/2 --steps versions,nvdec")


def test_what_fits_into_no_package_is_spread(
    prepare: Callable[[int], tuple[Path, Any]], wheels: dict[str, gpu_packages.Wheel], tmp_path: Path
) -> None:
    folder, manifest = prepare(300_000)
    *others, spread = manifest["packages"]
    assert [package["holds"] for package in others] == [["what all steps need", "av"], ["pynvvideocodec"]]
    assert (spread["holds"], spread["folder"], list(spread["after"])) == (["TensorRT-RTX"], "4", ["3"])
    sizes = {each.name: sum(f.stat().st_size for f in each.rglob("*") if f.is_file()) for each in folder.glob("[34]")}
    assert sizes == {"3": spread["after"]["3"], "4": spread["bytes"]}
    assert max(sizes.values()) <= 300_000
    text = gpu_prepare.summary(folder, manifest)
    assert f"needs {folder}/3, 0.3 MiB, next to it: take that to the machine first" in text
    assert text.endswith(f"--carry {folder}/4 --steps versions,rtx")
    (rtx,) = gpu_carry.read_manifest(folder / "4")["wheels"]
    joined = gpu_carry.joined(folder / "4", rtx, tmp_path)
    assert files_of(joined) == files_of(wheels[rtx["name"]].path)
    (folder / "3" / "wheels" / f"{rtx['file']}.xz.part01").unlink()
    with pytest.raises(gpu_carry.CarryError, match="part01 is missing"):
        gpu_carry.joined(folder / "4", rtx, tmp_path)
    with pytest.raises(gpu_packages.PrepareError, match="is not empty"):
        prepare(300_000)


def test_commands_are_for_the_root_of_the_repository(tmp_path: Path) -> None:
    (command,) = gpu_prepare.commands(ROOT / "runs" / "x y", {"packages": [{"folder": "1", "steps": []}]})
    assert command.endswith("--carry 'runs/x y/1'")


def test_a_path_that_makes_the_command_too_long(tmp_path: Path) -> None:
    with pytest.raises(gpu_packages.PrepareError, match="use a shorter path"):
        gpu_prepare.commands(tmp_path / "x" / ("y" * 1990), {"packages": [{"folder": "1", "steps": []}]})


def carry(folder: Path, tmp_path: Path, installed: dict[str, str]) -> dict[str, Any]:
    work = tmp_path / "work"
    work.mkdir()
    return gpu_carry.install(folder, tmp_path / "site", installed, TARGET.pip_options(), work)


def test_a_package_is_installed_without_a_network(prepare: Callable[[int], tuple[Path, Any]], tmp_path: Path) -> None:
    folder, _ = prepare(2_000_000)
    found = carry(folder / "1", tmp_path, {"deep": "0.1", "opencv-python": "5"})
    assert found["not_installed"] == {"deep 2.5": "deep 0.1 is here already"}
    assert set(found["installed"]) >= {"av 19.0", "plain 2.1", "tensorrt-rtx-cu13-libs 1.8"}
    assert found["failed"] == {}
    code = "import av, plain; print(av.version, plain.version, av.__file__)"
    site = str(tmp_path / "site")
    said = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": site}, capture_output=True, text=True).stdout
    assert said == f"19.0 2.1 {site}/av/__init__.py\n"
    assert Path(found["images"], "annotations.json").is_file()
    assert Path(found["video"]).is_file()


def test_what_is_damaged_or_missing_does_not_keep_the_rest_out(
    prepare: Callable[[int], tuple[Path, Any]], tmp_path: Path
) -> None:
    folder, _ = prepare(2_000_000)
    parts = folder / "1" / "wheels"
    (broken,) = parts.glob("tensorrt*.part02")
    broken.write_bytes(broken.read_bytes()[:-1] + b"x")
    next(parts.glob("av*.part01")).unlink()
    (folder / "1" / "video.mp4").unlink()
    (parts / "plain-2.1-py3-none-any.whl.xz").rename(tmp_path / "plain")
    found = carry(folder / "1", tmp_path, {})
    assert found["failed"]["tensorrt-rtx-cu13-libs 1.8"].startswith("tensorrt_rtx_cu13_libs-1.8-py3-none-manylinux")
    assert "the SHA-256 is" in found["failed"]["tensorrt-rtx-cu13-libs 1.8"]
    assert found["failed"]["av 19.0"].endswith("part01 is missing")
    assert found["failed"]["plain 2.1"].endswith("plain-2.1-py3-none-any.whl.xz is missing")
    assert found["failed"]["video"].endswith("video.mp4 is missing")
    assert "video" not in found
    assert "deep 2.5" in found["installed"]
    with pytest.raises(gpu_carry.CarryError, match="is no package of --prepare"):
        gpu_carry.read_manifest(tmp_path)
    with pytest.raises(gpu_carry.CarryError, match=rf"holds them; give one of {folder}/1$"):
        gpu_carry.read_manifest(folder)
    (tmp_path / "manifest.json").write_text('{"wheels": []}')
    with pytest.raises(gpu_carry.CarryError, match=r"its format is None, expected 2; run --prepare again"):
        gpu_carry.read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(gpu_carry.CarryError, match="is no package of --prepare"):
        gpu_carry.read_manifest(tmp_path)


def test_a_python_without_lzma(prepare: Callable[[int], tuple[Path, Any]], tmp_path: Path) -> None:
    folder, _ = prepare(2_000_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "lzma", None)
        found = carry(folder / "1", tmp_path, {})
    assert "this Python has no lzma" in found["failed"]["av 19.0"]
    assert found["installed"] == []


def test_a_program_in_a_wheel_stays_one(tmp_path: Path) -> None:
    path = tmp_path / "a-1-py3-none-any.whl"
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        entry = ZipInfo("a/tool")
        entry.external_attr = 0o755 << 16
        archive.writestr(entry, b"x" * 10_000)
    (into := tmp_path / "into").mkdir()
    wheel = gpu_prepare.packed(gpu_packages.Wheel("a", "1", path), into)
    with ZipFile(io.BytesIO(lzma.decompress(wheel.path.read_bytes()))) as archive:
        (info,) = archive.infolist()
        assert (info.filename, info.external_attr >> 16, info.file_size) == ("a/tool", 0o755, 10_000)


def test_a_version_in_two_places_is_the_one_that_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, version in (("first", "2"), ("second", "1")):
        info = tmp_path / folder / f"of_nobody-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: of_nobody\nVersion: {version}\n")
    monkeypatch.syspath_prepend(tmp_path / "second")
    monkeypatch.syspath_prepend(tmp_path / "first")
    assert gpu_have.installed()["of-nobody"] == "2"


def test_a_wheel_of_another_platform_does_not_keep_the_rest_out(index: Path, tmp_path: Path) -> None:
    wheels = {name: next(index.glob(f"{name}-*")) for name in ("of_another_python", "plain")}
    failed = gpu_carry._pip_install(wheels, tmp_path / "site", [])
    assert list(failed) == ["of_another_python"]
    assert "is not a supported wheel on this platform" in failed["of_another_python"]
    assert (tmp_path / "site" / "plain" / "__init__.py").is_file()


@pytest.mark.parametrize(
    ("name", "replaces", "at_least", "installed", "expected"),
    [
        ("av", None, "13.1", {}, None),
        ("av", None, "13.1", {"av": "13.1"}, "av 13.1 is here already"),
        ("av", None, None, {"av": "12.0"}, "av 12.0 is here already"),
        ("cuda-core", None, "1.0.1", {"cuda-core": "0.9.12"}, None),
        ("cuda-core", None, "1.0.1", {"cuda-core": "1.0"}, None),
        ("cuda-core", None, "1.0.1", {"cuda-core": "1.0.1.post1"}, "cuda-core 1.0.1.post1 is here already"),
        ("cuda-bindings", None, "13.0.2", {"cuda-bindings": "13.0.10"}, "cuda-bindings 13.0.10 is here already"),
        ("cuda-core", "2.0", "1.0.1", {"cuda-core": "2.0"}, None),
        ("cuda-core", "2.0", "1.0.1", {"cuda-core": "1.2"}, "cuda-core 1.2 is here already"),
        ("torch", "2.3", "2.4", {"torch": "2.3"}, "torch 2.3 is here already"),
        ("torchvision", None, "0.19", {"torchvision": "0.18"}, "torchvision 0.18 is here already"),
        ("numpy", None, "1.23", {"numpy": "1.22"}, "numpy 1.22 is here already"),
        ("opencv_python", None, "4.8", {"opencv-python-headless": "5.0"}, "opencv-python-headless 5.0 is here already"),
    ],
)
def test_what_the_machine_has_is_replaced_only_if_too_old(
    name: str, replaces: str | None, at_least: str | None, installed: dict[str, str], expected: str | None
) -> None:
    wheel = {"name": name, "version": "1.2", "replaces": replaces, "at_least": at_least}
    assert gpu_carry.why_not(wheel, installed) == expected


def test_markers_are_those_of_the_target() -> None:
    for text, applies in (
        ("a; python_version < '3.11'", False),
        ("a; python_version >= '3.12' and platform_machine == 'x86_64'", True),
        ("a; sys_platform == 'win32'", False),
        ("a; extra == 'b'", False),
    ):
        assert gpu_packages.applies(Requirement(text), TARGET) == applies
    assert gpu_packages.applies(Requirement("a; extra == 'b'"), TARGET, {"b"})
