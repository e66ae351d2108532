"""Putting packages to use that `--prepare` made, without a network."""

from __future__ import annotations

import io
import lzma
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import pytest

from benchmarks.evidence import carry, have, packages
from benchmarks.evidence.prepare import packed
from tests.benchmarks.evidence.wheels import TARGET


def carried(folder: Path, tmp_path: Path, installed: dict[str, str]) -> dict[str, Any]:
    work = tmp_path / "work"
    work.mkdir()
    return carry.install(folder, tmp_path / "site", installed, TARGET.pip_options(), work)


def test_a_package_is_installed_without_a_network(prepare: Callable[[int], tuple[Path, Any]], tmp_path: Path) -> None:
    folder, _ = prepare(2_000_000)
    found = carried(folder / "1", tmp_path, {"deep": "0.1", "opencv-python": "5"})
    assert found["not_installed"] == {"deep 2.5": "deep 0.1 is here already"}
    assert set(found["installed"]) >= {"av 19.0", "plain 2.1", "tensorrt-rtx-cu13-libs 1.8"}
    assert found["failed"] == {}
    code = "import av, plain; print(av.version, plain.version, av.__file__)"
    site = str(tmp_path / "site")
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, env={"PYTHONPATH": site}, capture_output=True, text=True, timeout=60).stdout
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
    found = carried(folder / "1", tmp_path, {})
    assert found["failed"]["tensorrt-rtx-cu13-libs 1.8"].startswith("tensorrt_rtx_cu13_libs-1.8-py3-none-manylinux")
    assert "the SHA-256 is" in found["failed"]["tensorrt-rtx-cu13-libs 1.8"]
    assert found["failed"]["av 19.0"].endswith("part01 is missing")
    assert found["failed"]["plain 2.1"].endswith("plain-2.1-py3-none-any.whl.xz is missing")
    assert found["failed"]["video"].endswith("video.mp4 is missing")
    assert "video" not in found
    assert "deep 2.5" in found["installed"]
    with pytest.raises(carry.CarryError, match="is no package of --prepare"):
        carry.read_manifest(tmp_path)
    with pytest.raises(carry.CarryError, match=rf"holds them; give one of {folder}/1$"):
        carry.read_manifest(folder)
    (tmp_path / "manifest.json").write_text('{"wheels": []}')
    with pytest.raises(carry.CarryError, match=r"its format is None, expected 2; run --prepare again"):
        carry.read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(carry.CarryError, match="is no package of --prepare"):
        carry.read_manifest(tmp_path)


def test_a_python_without_lzma(prepare: Callable[[int], tuple[Path, Any]], tmp_path: Path) -> None:
    folder, _ = prepare(2_000_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "lzma", None)
        found = carried(folder / "1", tmp_path, {})
    assert "this Python has no lzma" in found["failed"]["av 19.0"]
    assert found["installed"] == []


def test_a_program_in_a_wheel_stays_one(tmp_path: Path) -> None:
    path = tmp_path / "a-1-py3-none-any.whl"
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        entry = ZipInfo("a/tool")
        entry.external_attr = 0o755 << 16
        archive.writestr(entry, b"x" * 10_000)
    (into := tmp_path / "into").mkdir()
    wheel = packed(packages.Wheel("a", "1", path), into)
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
    assert have.installed()["of-nobody"] == "2"


def test_a_wheel_of_another_platform_does_not_keep_the_rest_out(index: Path, tmp_path: Path) -> None:
    wheels = {name: next(index.glob(f"{name}-*")) for name in ("of_another_python", "plain")}
    failed = carry.pip_install(wheels, tmp_path / "site", [])
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
    assert carry.why_not(wheel, installed) == expected
