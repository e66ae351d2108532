"""Which packages a machine lacks of those that pyproject.toml requires, and their wheels."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from email.parser import HeaderParser
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import parse_wheel_filename
from packaging.version import Version

from benchmarks.evidence.absent import canonical
from benchmarks.evidence.have import NEVER_REPLACED, stands_in

PROJECT = "ssd-edge"
EXTRAS = ("demo", "train", "export", "cuda13", "rtx")
OF_DEV = ("pytest",)  # all that the steps need of the extra `dev`
# In the order in which they go into the first package, which is for the main run. av is of more use there, as it also
# decodes on the CPU, to compare with.
DECODERS = ("av", "pynvvideocodec")
# Carried also where the machine has them in versions that the list does not give: nothing runs with one that is too
# old, and their bounds are of the last year.
YOUNG = ("cuda-core", "cuda-bindings", "cuda-pathfinder")
BEYOND_PYPROJECT = ("pynvvideocodec>=2.2",)  # an alternative to av, for the NVDEC step alone


class PrepareError(Exception):
    """What is asked for cannot be collected."""


@dataclass(frozen=True)
class Target:
    """The machine that packages are for.

    Attributes:
        python: such as "3.12".
        glibc: minor version of its glibc 2.
        machine: as in a wheel's platform tag.
    """

    python: str = "3.12"
    glibc: int = 35
    machine: str = "x86_64"

    def pip_options(self) -> list[str]:
        """For `pip download` and `pip install`; pip takes each platform tag literally."""
        tags = [f"manylinux_2_{minor}" for minor in range(self.glibc, 4, -1)]
        tags += ["manylinux2014", "manylinux2010", "manylinux1", "linux"]
        platforms = [f"--platform={tag}_{self.machine}" for tag in tags]
        return ["--only-binary=:all:", "--python-version", self.python, "--implementation", "cp", *platforms]

    def environment(self) -> dict[str, str]:
        """For the markers of requirements."""
        here: dict[str, Any] = dict(default_environment())
        there = {
            "python_version": self.python,
            "python_full_version": f"{self.python}.0",
            "implementation_name": "cpython",
            "platform_python_implementation": "CPython",
            "platform_system": "Linux",
            "sys_platform": "linux",
            "os_name": "posix",
            "platform_machine": self.machine,
        }
        return {**here, **there}


@dataclass
class Wheel:
    """A package to carry.

    Attributes:
        wanted_by: the direct requirements, by canonical name, that it is for.
        replaces: the version that the machine has, where that is out of bounds.
        at_least: the oldest version that will do; where the machine has an older one, this takes its place.
    """

    name: str
    version: str
    path: Path
    wanted_by: set[str] = field(default_factory=set)
    replaces: str | None = None
    at_least: str | None = None


def project_requirements(pyproject: Path, target: Target) -> list[Requirement]:
    """What `pyproject.toml` requires for the steps, on the target: the base, `EXTRAS`, and pytest."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    of_dev = [text for text in extras["dev"] if canonical(Requirement(text).name) in OF_DEV]
    texts = [*project["dependencies"], *of_dev, *BEYOND_PYPROJECT]
    open_extras, seen = list(EXTRAS), set[str]()
    while open_extras:
        extra = open_extras.pop()
        if extra in seen:
            continue
        seen.add(extra)
        for text in extras[extra]:
            requirement = Requirement(text)
            if canonical(requirement.name) == PROJECT:
                open_extras.extend(requirement.extras)
            else:
                texts.append(text)
    return [each for each in map(Requirement, texts) if applies(each, target)]


def applies(requirement: Requirement, target: Target, extras: Iterable[str] = ("",)) -> bool:
    """Whether a requirement's marker holds on the target, for any of these extras of the package that has it."""
    marker = requirement.marker
    return marker is None or any(marker.evaluate({**target.environment(), "extra": extra}) for extra in extras)


def collect(
    requirements: Sequence[Requirement], have: dict[str, str | None], target: Target, cache: Path
) -> dict[str, Wheel]:
    """Download the wheels that are missing, with what they need in turn: one version of each.

    Args:
        cache: folder for the wheels.

    Raises:
        PrepareError: pip finds no wheel, bounds contradict each other, or the machine lacks PyTorch or NumPy.
    """
    bounds: dict[str, SpecifierSet] = {}
    extras: dict[str, set[str]] = {}
    wanted_by: dict[str, set[str]] = {}
    wheels: dict[str, Wheel] = {}
    wanted = [(each, canonical(each.name)) for each in requirements]
    while wanted:
        changed: list[str] = []  # names of which more is asked for than before
        for requirement, root in wanted:
            name = canonical(requirement.name)
            known = (bounds.get(name), extras.get(name), wanted_by.get(name))
            bounds[name] = bounds.get(name, SpecifierSet()) & requirement.specifier
            extras[name] = extras.get(name, set()) | requirement.extras
            wanted_by[name] = wanted_by.get(name, set()) | {root}
            if known != (bounds[name], extras[name], wanted_by[name]) and name not in changed:
                changed.append(name)
        missing = [name for name in changed if _is_missing(name, bounds[name], have)]
        fetched = [name for name in missing if name not in wheels or not _fits(wheels[name].version, bounds[name])]
        wheels |= download({name: bounds[name] for name in fetched}, target, cache)
        wanted = []
        for name in missing:
            wheel = wheels[name]
            wheel.wanted_by, wheel.replaces = wanted_by[name], _version_there(name, have)
            wheel.at_least = oldest(bounds[name])
            needed = [need for need in needs(wheel.path) if applies(need, target, extras[name] or {""})]
            wanted += [(need, root) for need in needed for root in sorted(wheel.wanted_by)]
    return wheels


def _is_missing(name: str, bounds: SpecifierSet, have: dict[str, str | None]) -> bool:
    """Whether a package must be carried.

    Raises:
        PrepareError: it must, and cannot be.
    """
    version, there = _version_there(name, have), stands_in(name, have) is not None
    if there and (name not in YOUNG if version is None else _fits(version, bounds)):
        return False
    if name in NEVER_REPLACED:
        found = f"{name} {version}" if there else f"no {name}"
        raise PrepareError(f"the machine has {found}, and {name}{bounds} is required: it must come with the machine")
    return True


def _version_there(name: str, have: dict[str, str | None]) -> str | None:
    there = stands_in(name, have)
    return None if there is None else have[there]


def _fits(version: str, bounds: SpecifierSet) -> bool:
    return bounds.contains(version, prereleases=True)


def oldest(bounds: SpecifierSet) -> str | None:
    """The lowest version within bounds that have a lower one."""
    lower = [each.version.removesuffix(".*") for each in bounds if each.operator in (">=", "==", "~=")]
    return max(lower, key=Version, default=None)


def download(wanted: dict[str, SpecifierSet], target: Target, cache: Path) -> dict[str, Wheel]:
    """The newest wheel of each package, within bounds, that runs on the target.

    Raises:
        PrepareError: there is none of some package; with pip's message.
    """
    if not wanted:
        return {}
    cache.mkdir(parents=True, exist_ok=True)
    into = Path(tempfile.mkdtemp(dir=cache))
    requirements = [f"{name}{bounds}" for name, bounds in wanted.items()]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--disable-pip-version-check"]
    ended = subprocess.run(
        [*command, *target.pip_options(), "-d", str(into), *requirements], capture_output=True, text=True
    )
    if ended.returncode:
        said = [line for line in ended.stderr.splitlines() if line.startswith("ERROR")]
        raise PrepareError(f"wheels for Python {target.python} and glibc 2.{target.glibc}: {chr(10).join(said)}")
    found = {}
    for path in into.glob("*.whl"):
        name, version, *_ = parse_wheel_filename(path.name)
        found[canonical(name)] = Wheel(canonical(name), str(version), path)
    return found


def needs(wheel: Path) -> Iterator[Requirement]:
    """What the wheel's METADATA requires, extras included."""
    with ZipFile(wheel) as archive:
        name = next(each for each in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", each))
        metadata = HeaderParser().parsestr(archive.read(name).decode())
    yield from map(Requirement, metadata.get_all("Requires-Dist") or [])
