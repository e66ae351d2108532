"""Hide installed packages from a Python process, as if they were not installed. Standard library only.

A dry run copies this file to a folder on `PYTHONPATH` as `sitecustomize.py`; two variables hold what to hide, separated
by commas. A module that a visible distribution brings too stays visible.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

DISTRIBUTIONS, MODULES = "SSD_EDGE_ABSENT_DISTRIBUTIONS", "SSD_EDGE_ABSENT_MODULES"


def canonical(name: str) -> str:
    """A distribution's name as PEP 503 has it: lower case, with single dashes."""
    return re.sub(r"[-_.]+", "-", name).lower()


def modules_of(distribution: Distribution) -> set[str]:
    """The top-level modules that a distribution brings."""
    listed = (distribution.read_text("top_level.txt") or "").split()
    files = [file.parts for file in distribution.files or ()]
    packages = {parts[0] for parts in files if len(parts) > 1 and parts[0].isidentifier()}
    single = {parts[0].partition(".")[0] for parts in files if len(parts) == 1 and parts[0].endswith((".py", ".so"))}
    return {*listed, *packages, *single} - {"__pycache__", "tests", "test", "benchmarks"}


class Hiding:
    """A finder of modules and distributions that does not find the hidden ones."""

    def __init__(self, finder: Any, modules: set[str], hidden: set[str]) -> None:
        self._finder, self._modules, self._hidden = finder, modules, hidden

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """As the finder's, None for what is hidden."""
        return None if name.partition(".")[0] in self._modules else self._finder.find_spec(name, path, target)

    def find_distributions(self, *arguments: Any, **options: Any) -> Iterable[Distribution]:
        """As the finder's, without the hidden ones."""
        find = getattr(self._finder, "find_distributions", lambda *_, **__: ())
        return (each for each in find(*arguments, **options) if canonical(each.metadata["Name"]) not in self._hidden)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)


def modules_to_hide(names: Iterable[str]) -> set[str]:
    """Top-level modules that these distributions bring and no other that is installed."""
    hidden, shown = set[str](), set[str]()
    absent = set(map(canonical, names))
    for each in distributions():
        (hidden if canonical(each.metadata["Name"]) in absent else shown).update(modules_of(each))
    return hidden - shown


def environment(names: Iterable[str], folder: Path, *, importable: Iterable[str] = ()) -> dict[str, str]:
    """Variables that hide distributions from every Python process that gets them.

    Args:
        folder: where this file is put as `sitecustomize.py`.
        importable: top-level modules that stay, as they come from elsewhere too.
    """
    names = sorted(map(canonical, names))
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(__file__, folder / "sitecustomize.py")
    return {
        "PYTHONPATH": str(folder),
        DISTRIBUTIONS: ",".join(names),
        MODULES: ",".join(sorted(modules_to_hide(names) - set(importable))),
    }


def hide(names: set[str], modules: set[str]) -> None:
    """Hide these distributions and modules from this process."""
    sys.meta_path[:] = [Hiding(finder, modules, names) for finder in sys.meta_path]


if __name__ == "sitecustomize" and DISTRIBUTIONS in os.environ:
    hide(set(os.environ[DISTRIBUTIONS].split(",")), set(os.environ[MODULES].split(",")))
