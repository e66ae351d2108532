"""Fixes are worded in one place each."""

from pathlib import Path

import pytest

from ssd_edge.errors import PIP_INSTALL, MissingDependencyError
from ssd_edge.runtime.host.fixes import extra_command

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("ssd_edge", "runtime", "export", "calib", "benchmarks", "tools")


def test_the_command_for_an_extra_is_that_of_the_error() -> None:
    assert extra_command("web") == "in the folder of ssd-edge: pip install '.[web]'"
    assert str(MissingDependencyError("no web server", "web")) == f"no web server; {extra_command('web')}"


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (PIP_INSTALL, "ssd_edge/errors.py"),
        ("--precision int8 --calib DATA --target tensorrt", "runtime/host/fixes.py"),
        ("--runtime nvidia", "runtime/host/fixes.py"),
    ],
)
def test_it_is_written_once(words: str, place: str) -> None:
    sources = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert [str(path.relative_to(ROOT)) for path in sources if words in path.read_text()] == [place]
