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
from pathlib import Path

import pytest

TIMEOUT_S = 60.0
PIP_OPTIONS = ("--no-deps", "--no-input", "--disable-pip-version-check", "--timeout", "5", "--retries", "1")

_no_index: list[str] = []  # why none can be downloaded, once that is known


def cached_wheel(package: str, version: str) -> Path:
    """A folder with the package in it, for PYTHONPATH. Skips the test where there is no such wheel, or no network."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ssd-edge-tests"
    python = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    folder = cache / f"{package}-{version}-{python}-{platform.machine()}"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as name:
            made = Path(name) / "made"
            with zipfile.ZipFile(_download(f"{package}=={version}", Path(name))) as wheel:
                wheel.extractall(made)
            try:
                made.rename(folder)
            except OSError:
                if not folder.exists():  # another process may have been faster
                    raise
    return folder


def _download(wanted: str, folder: Path) -> Path:
    if _no_index:
        pytest.skip(_no_index[0])
    command = [sys.executable, "-m", "pip", "download", "-q", *PIP_OPTIONS, "--only-binary=:all:", "-d", str(folder)]
    try:
        result = subprocess.run([*command, wanted], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        failure = result.stderr
    except subprocess.TimeoutExpired:
        failure = f"no answer within {TIMEOUT_S:g} s (from versions: none)"
    wheels = list(folder.glob("*.whl"))
    if not wheels:
        reason = f"pip finds no {wanted} for this Python: {' '.join(failure.split())[-300:]}"
        if "(from versions: none)" in failure:  # not even another one: there is no network, or pip
            _no_index.append(reason)
        pytest.skip(reason)
    return wheels[0]
