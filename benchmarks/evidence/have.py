"""What a machine has: its Python packages, listed in a file or found here. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Container
from importlib.metadata import distributions
from pathlib import Path

from benchmarks.evidence.absent import canonical

# Built for each other and for the machine's CUDA: they come with the machine or not at all.
NEVER_REPLACED = ("torch", "torchvision", "numpy", "triton")
# Packages that bring the same modules.
SAME = {"opencv-python": ("opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")}
LINE = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:(?:==|\s)\s*(\S+).*)?")


def read_have(path: Path) -> dict[str, str | None]:
    """Canonical names of what a machine has, with versions where the list gives them.

    Lines are `name`, `name==version` or `name version`, as `pip list` and `pip freeze` print them.

    Raises:
        ValueError: a line is none of these.
    """
    have: dict[str, str | None] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        text = line.partition("#")[0].strip()
        if not text or set(text) <= set("- ") or text.split() == ["Package", "Version"]:  # pip list's head
            continue
        match = LINE.fullmatch(text)
        if match is None:
            expected = "expected name, name==version or name version"
            raise ValueError(f"{path}, line {number}: {line!r} is no package; {expected}")
        have[canonical(match[1])] = match[2]
    return have


def installed() -> dict[str, str]:
    """Canonical names and versions of what this Python finds; of a package in two places, the one that it imports."""
    found: dict[str, str] = {}
    for each in distributions():
        found.setdefault(canonical(each.metadata["Name"] or ""), each.version)
    return found


def stands_in(name: str, names: Container[str]) -> str | None:
    """The one of `names` that brings what the package `name` brings, if any."""
    name = canonical(name)
    return next((other for other in (name, *SAME.get(name, ())) if other in names), None)
