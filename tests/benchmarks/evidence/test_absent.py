"""Hiding installed packages from a process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.evidence import absent

CODE = """
import importlib.util
from importlib.metadata import PackageNotFoundError, distributions, version
assert importlib.util.find_spec("tqdm") is None
try:
    import tqdm.auto
except ModuleNotFoundError as error:
    print(error)
try:
    version("tqdm")
except PackageNotFoundError as error:
    print(error)
assert "tqdm" not in {each.metadata["Name"] for each in distributions()}
import cv2, numpy
print(version("numpy") == numpy.__version__)
"""


def test_a_hidden_package_is_as_if_it_were_not_installed(tmp_path: Path) -> None:
    hidden = absent.environment(["tqdm"], tmp_path / "hide")
    for environment, status in ((hidden, 0), ({}, 1)):
        ended = subprocess.run(
            [sys.executable, "-c", CODE], env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
        )
        assert ended.returncode == status, ended.stderr
        if environment:
            assert ended.stdout == "No module named 'tqdm'\nNo package metadata was found for tqdm\nTrue\n"


def test_a_module_that_a_visible_package_brings_too_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, file in (("one", "shared_name/a.py"), ("two", "shared_name/b.py"), ("two", "alone.py")):
        info = tmp_path / f"{name}-1.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        with (info / "RECORD").open("a") as record:
            record.write(f"{file},,\n{info.name}/METADATA,,\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert absent.modules_to_hide(["two"]) == {"alone"}
    assert absent.modules_to_hide(["one", "Two"]) == {"alone", "shared_name"}
