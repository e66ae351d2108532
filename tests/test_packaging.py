"""pyproject.toml lists the packages, and what is in them besides Python."""

from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def setuptools_table() -> dict[str, Any]:
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    return table


def folders(table: dict[str, Any]) -> dict[str, Path]:
    """Each folder of `package-dir` by its package's name, and all folders in it that have an `__init__.py`."""
    found: dict[str, Path] = {}
    for package, folder in table["package-dir"].items():
        top = ROOT / folder
        files = [file for file in top.rglob("__init__.py") if not any(part.is_symlink() for part in file.parents)]
        found |= {".".join((package, *file.parent.relative_to(top).parts)): file.parent for file in files}
    return found


def test_the_listed_packages_are_the_folders_with_an_init(setuptools_table: dict[str, Any]) -> None:
    listed = setuptools_table["packages"]
    assert len(set(listed)) == len(listed)
    assert sorted(listed) == sorted(folders(setuptools_table))


def test_package_data_are_the_files_that_are_not_python(setuptools_table: dict[str, Any]) -> None:
    listed: set[Path] = set()
    for package, patterns in setuptools_table["package-data"].items():
        for pattern in patterns:
            matched = set(folders(setuptools_table)[package].glob(pattern))
            assert matched, f"{package}: {pattern} matches no file"
            listed |= matched
    there = {file for folder in folders(setuptools_table).values() for file in folder.rglob("*") if file.is_file()}
    assert listed == {file for file in there if file.suffix not in (".py", ".pyc")}
