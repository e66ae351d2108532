"""TensorRT's real Python bindings, on any machine.

NVIDIA's wheels of the bindings are small; only the libraries behind them are not to be had without a GPU's worth of
packages. What the bindings import of these libraries are about ten functions that make things: a stub of each is enough
to import the bindings and to look at them. Nothing in them can be called.

The wheels are kept in `~/.cache/ssd-edge-tests` or `$XDG_CACHE_HOME/ssd-edge-tests`.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

TIMEOUT_S = 60.0
PACKAGES = ("tensorrt-cu12-bindings", "tensorrt-cu13-bindings")  # each has versions that the other lacks
PIP_OPTIONS = ("--no-deps", "--no-input", "--disable-pip-version-check", "--timeout", "5", "--retries", "1")
DESCRIBE = Path(__file__).with_name("describe_bindings.py")

_no_index: list[str] = []  # why none can be downloaded, once that is known


def tensorrt_bindings(version: str) -> dict[str, Any]:
    """What is in the bindings of a version of TensorRT, as describe_bindings.py has it.

    Skips the test where there is no wheel for this Python, no network, or no compiler.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ssd-edge-tests"
    python = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    folder = cache / f"tensorrt-bindings-{version}-{python}-{platform.machine()}"
    if not folder.exists():
        try:
            cache.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            pytest.skip(f"TensorRT's bindings cannot be kept: {error}; set XDG_CACHE_HOME to a writable folder")
        with tempfile.TemporaryDirectory(dir=cache) as name:
            made = Path(name) / "made"
            _unpack(version, Path(name), made)
            _stub_libraries(made / "tensorrt_bindings" / "tensorrt.so", made)
            try:
                made.rename(folder)
            except OSError:
                if not folder.exists():  # another process may have been faster
                    raise
    paths = {"PYTHONPATH": str(folder), "LD_LIBRARY_PATH": str(folder)}
    return describe("tensorrt_bindings", paths)


def describe(module: str, paths: dict[str, str] | None = None) -> dict[str, Any]:
    """Import a module in a process of its own and describe it."""
    command = [sys.executable, str(DESCRIBE), module]
    result = subprocess.run(
        command, env=os.environ | (paths or {}), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert result.returncode == 0, result.stderr
    described: dict[str, Any] = json.loads(result.stdout)
    return described


def _unpack(version: str, folder: Path, target: Path) -> None:
    reasons = []
    for package in PACKAGES:
        if _no_index:
            pytest.skip(_no_index[0])
        if reason := _download(f"{package}=={version}", folder):
            reasons.append(reason)
            continue
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
            wheel.extractall(target)
        return
    pytest.skip("; ".join(reasons))


def _download(wanted: str, folder: Path) -> str | None:
    """Why pip gets none for this Python; None where there is a wheel in the folder."""
    command = [sys.executable, "-m", "pip", "download", "-q", *PIP_OPTIONS, "--only-binary=:all:", "-d", str(folder)]
    try:
        result = subprocess.run([*command, wanted], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        failure = result.stderr
    except subprocess.TimeoutExpired:
        failure = f"no answer within {TIMEOUT_S:g} s (from versions: none)"
    if any(folder.glob("*.whl")):
        return None
    reason = f"pip finds no {wanted} for this Python: {' '.join(failure.split())[-300:]}"
    if "(from versions:" not in failure or "(from versions: none)" in failure:  # there is no network, or no pip
        _no_index.append(reason)
    return reason


def _stub_libraries(extension: Path, folder: Path) -> None:
    """Libraries under the names that an extension asks for, with an empty function for each of its symbols."""
    tools = [name for name in ("nm", "readelf", "cc") if shutil.which(name) is None]
    if tools:
        pytest.skip(f"stubs of TensorRT's libraries need {', '.join(tools)}: sudo apt install build-essential")
    here = ctypes.CDLL(None)  # Python and the C library
    lines = _output("nm", "-D", "--undefined-only", str(extension)).splitlines()
    names = [words[1] for line in lines if (words := line.split())[0] == "U" and "@" not in words[1]]
    stubs = [name for name in names if not hasattr(here, name)]
    source = "".join(f"void *{name}(void) {{ return 0; }}\n" for name in stubs)
    for library in re.findall(r"\(NEEDED\).*\[(libnv[^]]+)\]", _output("readelf", "-d", str(extension))):
        options = ("-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", str(folder / library), "-x", "c", "-")
        subprocess.run(["cc", *options], input=source, text=True, check=True, capture_output=True, timeout=TIMEOUT_S)


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=TIMEOUT_S).stdout
