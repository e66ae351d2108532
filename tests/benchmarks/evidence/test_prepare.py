"""`gpu_evidence.sh --prepare`, from a folder of tiny wheels instead of an index, and putting its packages to use."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.evidence import carry, packages
from benchmarks.evidence.prepare import commands, place, summary
from tests.benchmarks.evidence.wheels import ROOT, files_of


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
    assert place(10, 2, [30, 20, 50], budget) == placed


def test_too_small_a_budget() -> None:
    with pytest.raises(packages.PrepareError, match=r"what all steps need takes 10.0 MiB; the budget is 9.0 MiB"):
        place(10 << 20, 0, [], 9 << 20)


def test_all_in_one_package(prepare: Callable[[int], tuple[Path, Any]]) -> None:
    folder, manifest = prepare(2_000_000)
    assert [package["folder"] for package in manifest["packages"]] == ["1"]
    assert (folder / "1" / "images" / "annotations.json").is_file()
    (command,) = commands(folder, manifest)
    assert command == f"bash benchmarks/gpu_evidence.sh --minutes 9 --out runs/evidence-1 --carry {folder}/1"


def test_tensorrt_in_the_second_package(
    prepare: Callable[[int], tuple[Path, Any]], wheels: dict[str, packages.Wheel], tmp_path: Path
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
    assert commands(folder, manifest)[1].endswith(f"--carry {folder}/2 --steps versions,rtx")
    sizes = {each.name: sum(f.stat().st_size for f in each.rglob("*") if f.is_file()) for each in folder.glob("[12]")}
    assert sizes == {package["folder"]: package["bytes"] for package in manifest["packages"]}
    assert max(sizes.values()) <= 870_000
    joined = carry.joined(folder / "2", rtx, tmp_path)
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
    assert commands(folder, manifest)[1].endswith(f"--carry {folder}/2 --steps versions,nvdec")


def test_what_fits_into_no_package_is_spread(
    prepare: Callable[[int], tuple[Path, Any]], wheels: dict[str, packages.Wheel], tmp_path: Path
) -> None:
    folder, manifest = prepare(300_000)
    *others, spread = manifest["packages"]
    assert [package["holds"] for package in others] == [["what all steps need", "av"], ["pynvvideocodec"]]
    assert (spread["holds"], spread["folder"], list(spread["after"])) == (["TensorRT-RTX"], "4", ["3"])
    sizes = {each.name: sum(f.stat().st_size for f in each.rglob("*") if f.is_file()) for each in folder.glob("[34]")}
    assert sizes == {"3": spread["after"]["3"], "4": spread["bytes"]}
    assert max(sizes.values()) <= 300_000
    text = summary(folder, manifest)
    assert f"needs {folder}/3, 0.3 MiB, next to it: take that to the machine first" in text
    assert text.endswith(f"--carry {folder}/4 --steps versions,rtx")
    (rtx,) = carry.read_manifest(folder / "4")["wheels"]
    joined = carry.joined(folder / "4", rtx, tmp_path)
    assert files_of(joined) == files_of(wheels[rtx["name"]].path)
    (folder / "3" / "wheels" / f"{rtx['file']}.xz.part01").unlink()
    with pytest.raises(carry.CarryError, match="part01 is missing"):
        carry.joined(folder / "4", rtx, tmp_path)
    with pytest.raises(packages.PrepareError, match="is not empty"):
        prepare(300_000)


def test_commands_are_for_the_root_of_the_repository(tmp_path: Path) -> None:
    (command,) = commands(ROOT / "runs" / "x y", {"packages": [{"folder": "1", "steps": []}]})
    assert command.endswith("--carry 'runs/x y/1'")


def test_a_path_that_makes_the_command_too_long(tmp_path: Path) -> None:
    with pytest.raises(packages.PrepareError, match="use a shorter path"):
        commands(tmp_path / "x" / ("y" * 1990), {"packages": [{"folder": "1", "steps": []}]})
