"""Wheels of chosen versions, unpacked into a cache outside the repository: to import them in a process of their own.

The cache is `~/.cache/ssd-edge-tests`, or `$XDG_CACHE_HOME/ssd-edge-tests`.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

TIMEOUT_S = 60.0
PIP_OPTIONS = ("--no-deps", "--no-input", "--disable-pip-version-check", "--timeout", "5", "--retries", "1")

_no_index: list[str] = []  # why none can be downloaded, once that is known


def cached_wheel(*packages: str, version: str, complete: Callable[[Path], None] | None = None) -> Path:
    """A folder with the first of the packages that has a wheel of this version, for PYTHONPATH.

    Skips the test where there is none for this Python, no network, or no place to keep it.

    Args:
        complete: adds to the folder what the wheel lacks, once.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ssd-edge-tests"
    python = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    folder = cache / f"{packages[0]}-{version}-{python}-{platform.machine()}"
    if not folder.exists():
        try:
            cache.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            pytest.skip(f"wheels cannot be kept: {error}; set XDG_CACHE_HOME to a writable folder")
        with tempfile.TemporaryDirectory(dir=cache) as name:
            made = Path(name) / "made"
            with zipfile.ZipFile(_download([f"{package}=={version}" for package in packages], Path(name))) as wheel:
                wheel.extractall(made)
            if complete is not None:
                complete(made)
            try:
                made.rename(folder)
            except OSError:
                if not folder.exists():  # another process may have been faster
                    raise
    return folder


def _download(wanted: list[str], folder: Path) -> Path:
    reasons = []
    for one in wanted:
        if _no_index:
            pytest.skip(_no_index[0])
        failure = _pip_download(one, folder)
        if wheels := list(folder.glob("*.whl")):
            return wheels[0]
        reasons.append(f"pip finds no {one} for this Python: {' '.join(failure.split())[-300:]}")
        if "(from versions:" not in failure or "(from versions: none)" in failure:  # there is no network, or no pip
            _no_index.append(reasons[-1])
    pytest.skip("; ".join(reasons))


def _pip_download(wanted: str, folder: Path) -> str:
    """What pip says against it."""
    command = [sys.executable, "-m", "pip", "download", "-q", *PIP_OPTIONS, "--only-binary=:all:", "-d", str(folder)]
    try:
        result = subprocess.run([*command, wanted], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer within {TIMEOUT_S:g} s (from versions: none)"
    return result.stderr
