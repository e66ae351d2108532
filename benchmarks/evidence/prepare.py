"""Collect what a machine without a network lacks for `gpu_evidence.sh`: packages, images, a video.

`gpu_evidence.sh --prepare DIR --budget-mib N` calls this. If all of it exceeds the budget, there are two packages:
`DIR/1` with what all steps need and what fits of the decoders and TensorRT-RTX, `DIR/2` with the others. What fits into
neither, such as TensorRT-RTX, is spread over further folders, all of which must be on the machine to use the last one.
Wheels travel compressed by xz, which takes a third off a wheel, in parts of at most 15 MiB. `carry.py` puts a
package to use.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import math
import os
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from zipfile import ZipFile, ZipInfo

from benchmarks.evidence.carry import FORMAT
from benchmarks.evidence.packages import DECODERS, PrepareError, Target, Wheel
from benchmarks.evidence.run import COMMAND_CHARACTERS, RESERVE_S, Row
from benchmarks.evidence.samples import write_images, write_video
from benchmarks.evidence.steps import CARRY, STEPS

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
PART_BYTES = 15 * MIB
MANIFEST_BYTES = 64 << 10  # more than a manifest takes
RTX = "TensorRT-RTX"


@dataclass(frozen=True)
class Unit:
    """What travels together or not at all.

    Attributes:
        step: the step that it is for; None for what all need.
    """

    name: str
    step: str | None
    wheels: tuple[Wheel, ...]

    @property
    def bytes(self) -> int:
        """Size of its wheels."""
        return sum(wheel.path.stat().st_size for wheel in self.wheels)


def units_of(wheels: Sequence[Wheel]) -> tuple[Unit, list[Unit]]:
    """What every package 1 has, and the decoders and TensorRT-RTX: a unit each."""
    groups: dict[str, list[Wheel]] = {name: [] for name in ("base", *DECODERS, RTX)}
    for wheel in wheels:
        kinds = {_kind(root) for root in wheel.wanted_by}
        groups[kinds.pop() if len(kinds) == 1 else "base"].append(wheel)
    base = Unit("what all steps need", None, tuple(groups.pop("base")))
    steps = {RTX: "rtx"}
    return base, [Unit(name, steps.get(name, "nvdec"), tuple(found)) for name, found in groups.items() if found]


def _kind(root: str) -> str:
    if root in DECODERS:
        return root
    return RTX if root.startswith("tensorrt-rtx") else "base"


def place(base: int, both: int, optional: Sequence[int], budget: int) -> list[int | None]:
    """The package of each optional unit: 1, 2, or None where it fits into neither.

    They go into package 1, first come, first served; what does not fit there goes into package 2.

    Args:
        base: bytes that package 1 has in any case, those of `both` included.
        both: bytes that each package has: the video and the manifest.
        optional: bytes of each unit.

    Raises:
        PrepareError: not even `base` fits.
    """
    if base > budget:
        raise PrepareError(f"what all steps need takes {base / MIB:.1f} MiB; the budget is {budget / MIB:.1f} MiB")
    room, placed = {1: budget - base, 2: budget - both}, list[int | None]()
    for size in optional:
        package = next((number for number, left in room.items() if size <= left), None)
        placed.append(package)
        if package is not None:
            room[package] -= size
    return placed


def again(first: Sequence[Unit], second: Sequence[Unit], room: int) -> list[Unit]:
    """Units of package 1 to take along in package 2, too: decoders are compared with each other.

    Args:
        room: bytes of wheels that package 2 may have.
    """
    left, found = room - sum(unit.bytes for unit in second), list[Unit]()
    for unit in first:
        if unit.step in {other.step for other in second} and unit.bytes <= left:
            found.append(unit)
            left -= unit.bytes
    return found


def prepare(folder: Path, budget_bytes: int, wheels: Sequence[Wheel], target: Target, *, images: int) -> Row:
    """Write the packages into an empty or absent folder, and the manifest of all.

    Args:
        wheels: what `packages.collect` found missing.
        images: how many to render.

    Raises:
        PrepareError: the folder has other content, or the budget is too small.
    """
    if folder.exists() and any(folder.iterdir()):
        raise PrepareError(f"{folder} is not empty: name another folder, or delete this one")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        base, optional = units_of([packed(wheel, work) for wheel in wheels])
        write_images(work / "images", images)
        write_video(work / "video.mp4")
        both = _size(work / "video.mp4") + MANIFEST_BYTES
        always, sizes = base.bytes + _size(work / "images") + both, [unit.bytes for unit in optional]
        placed = place(always, both, sizes, budget_bytes)
        first, second = ([unit for unit, at in zip(optional, placed, strict=True) if at == n] for n in (1, 2))
        packages = [_write_package(folder / "1", [base, *first], work, target, with_images=True)]
        if second:
            units = [*second, *again(first, second, budget_bytes - both)]
            packages.append(_write_package(folder / "2", units, work, target, with_images=False))
        for unit in (unit for unit, at in zip(optional, placed, strict=True) if at is None):
            packages.append(_spread(folder, unit, work, target, room=budget_bytes - both))
    manifest = {
        "budget_bytes": budget_bytes,
        "target": {"python": target.python, "glibc": f"2.{target.glibc}", "machine": target.machine},
        "packages": packages,
    }
    _write_json(folder / "manifest.json", manifest)
    return manifest


def packed(wheel: Wheel, folder: Path) -> Wheel:
    """The wheel as it travels: its files uncompressed in a zip, which xz compresses as a whole."""
    stored = io.BytesIO()
    with ZipFile(wheel.path) as archive, ZipFile(stored, "w") as zipped:
        for info in archive.infolist():
            entry = ZipInfo(info.filename)
            entry.external_attr = info.external_attr  # whether it may be executed
            zipped.writestr(entry, archive.read(info))
    path = folder / f"{wheel.path.name}.xz"
    path.write_bytes(lzma.compress(stored.getvalue()))
    return replace(wheel, path=path)


def _write_package(folder: Path, units: Sequence[Unit], work: Path, target: Target, *, with_images: bool) -> Row:
    (folder / "wheels").mkdir(parents=True)
    wheels = [_write_wheel(wheel, folder / "wheels") for unit in units for wheel in unit.wheels]
    if with_images:
        shutil.copytree(work / "images", folder / "images")
    return _finish_package(folder, units, wheels, work, target, images="images" if with_images else None)


def _finish_package(
    folder: Path, units: Sequence[Unit], wheels: list[Row], work: Path, target: Target, *, images: str | None = None
) -> Row:
    """Add the video and the manifest to a folder."""
    shutil.copy(work / "video.mp4", folder)
    content = {"format": FORMAT, "wheels": wheels, "images": images, "video": "video.mp4"}
    content["pip_options"] = target.pip_options()
    _write_json(folder / "manifest.json", content)
    return {
        "folder": folder.name,
        "bytes": _size(folder),
        "after": {},
        "holds": [unit.name for unit in units],
        "steps": sorted({unit.step for unit in units if unit.step}),
        "wheels": {wheel["file"]: wheel["bytes"] for wheel in wheels},
    }


def _write_wheel(wheel: Wheel, folder: Path) -> Row:
    content = wheel.path.read_bytes()
    if len(content) <= PART_BYTES:
        (folder / wheel.path.name).write_bytes(content)
        return _described(wheel, content, [])
    parts = []
    for number, start in enumerate(range(0, len(content), PART_BYTES), 1):
        parts.append(f"{wheel.path.name}.part{number:02}")
        (folder / parts[-1]).write_bytes(content[start : start + PART_BYTES])
    return _described(wheel, content, parts)


def _spread(folder: Path, unit: Unit, work: Path, target: Target, *, room: int) -> Row:
    """Write a unit into as many folders as it takes, each with `room` bytes of wheels. The last one is the package."""
    into, left = _new_folder(folder), room
    cut: list[tuple[Wheel, bytes, list[Path]]] = []
    for wheel in unit.wheels:
        content, parts, start = wheel.path.read_bytes(), list[Path](), 0
        while start < len(content):
            if left == 0:
                into, left = _new_folder(folder), room
            size = min(PART_BYTES, left, len(content) - start)
            parts.append(into / "wheels" / f"{wheel.path.name}.part{len(parts) + 1:02}")
            parts[-1].write_bytes(content[start : start + size])
            start, left = start + size, left - size
        cut.append((wheel, content, parts))
    wheels = [
        _described(wheel, content, [os.path.relpath(part, into / "wheels") for part in parts])
        for wheel, content, parts in cut
    ]
    needed = dict.fromkeys(part.parents[1] for *_, parts in cut for part in parts)
    package = _finish_package(into, [unit], wheels, work, target)
    return {**package, "after": {each.name: _size(each) for each in needed if each != into}}


def _new_folder(folder: Path) -> Path:
    """The next of the numbered folders."""
    made = folder / str(1 + sum(each.is_dir() for each in folder.iterdir()))
    (made / "wheels").mkdir(parents=True)
    return made


def _described(wheel: Wheel, content: bytes, parts: list[str]) -> Row:
    return {
        "name": wheel.name,
        "version": wheel.version,
        "file": wheel.path.name.removesuffix(".xz"),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "parts": parts,
        "replaces": wheel.replaces,
        "at_least": wheel.at_least,
    }


def _size(path: Path) -> int:
    return sum(each.stat().st_size for each in (path.rglob("*") if path.is_dir() else [path]) if each.is_file())


def _write_json(path: Path, content: Row) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def commands(folder: Path, manifest: Row) -> list[str]:
    """The command line for each package, to be run in the root of the repository.

    Raises:
        PrepareError: one is longer than some services take.
    """
    lines = []
    for package in manifest["packages"]:
        carry = os.path.relpath(folder / package["folder"], ROOT)
        if carry.startswith(".."):
            carry = str((folder / package["folder"]).resolve())
        steps = [step for step in STEPS if package["folder"] == "1" or step.name in ("versions", *package["steps"])]
        minutes = math.ceil((CARRY.timeout_s + sum(step.timeout_s for step in steps) + RESERVE_S) / 60)
        line = [
            "bash",
            "benchmarks/gpu_evidence.sh",
            "--minutes",
            str(minutes),
            "--out",
            f"runs/evidence-{package['folder']}",
        ]
        line += ["--carry", carry]
        if len(steps) < len(STEPS):
            line += ["--steps", ",".join(step.name for step in steps)]
        lines.append(shlex.join(line))
        if len(lines[-1]) >= COMMAND_CHARACTERS:
            raise PrepareError(
                f"the command for package {package['folder']} has {len(lines[-1])} characters, "
                f"{COMMAND_CHARACTERS - 1} at most: use a shorter path"
            )
    return lines


def summary(folder: Path, manifest: Row) -> str:
    """Sizes, contents and the command of each package."""
    budget = manifest["budget_bytes"]
    lines = []
    for package, command in zip(manifest["packages"], commands(folder, manifest), strict=True):
        lines.append(f"{folder / package['folder']}: {package['bytes'] / MIB:.1f} of {budget / MIB:.1f} MiB")
        lines.append(f"  holds {', '.join(package['holds'])}")
        for name, size in package["after"].items():
            lines.append(f"  needs {folder / name}, {size / MIB:.1f} MiB, next to it: take that to the machine first")
        lines += [f"  {size / MIB:6.1f} MiB  {name}" for name, size in package["wheels"].items()]
        lines.append(f"  run: {command}")
    return "\n".join(lines)
