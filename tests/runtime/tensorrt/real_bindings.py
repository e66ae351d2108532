"""TensorRT's real Python bindings, on any machine.

NVIDIA's wheels of the bindings are small; those of the libraries that they load are large. The bindings import about
ten functions from these libraries, all of which create objects. A stub of each is enough to import the bindings and to
look at them. Nothing in them can be called.

The wheels are kept by `cached_wheels.py`.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.cuda.cached_wheels import TIMEOUT_S, cached_wheel

PACKAGES = ("tensorrt-cu12-bindings", "tensorrt-cu13-bindings")  # each has versions that the other lacks
DESCRIBE = Path(__file__).with_name("describe_bindings.py")


def tensorrt_bindings(version: str) -> dict[str, Any]:
    """What is in the bindings of a version of TensorRT, as describe_bindings.py has it.

    Skips the test where there is no wheel for this Python, no network, or no compiler.
    """
    folder = cached_wheel(*PACKAGES, version=version, complete=_stub_libraries)
    paths = {"PYTHONPATH": str(folder), "LD_LIBRARY_PATH": str(folder)}
    return describe("tensorrt_bindings", paths)


def describe(module: str, paths: dict[str, str] | None = None) -> dict[str, Any]:
    """Import a module in a separate process and describe it."""
    command = [sys.executable, str(DESCRIBE), module]
    result = subprocess.run(
        command, env=os.environ | (paths or {}), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert result.returncode == 0, result.stderr
    described: dict[str, Any] = json.loads(result.stdout)
    return described


def _stub_libraries(folder: Path) -> None:
    """Add libraries under the names that the extension asks for, with an empty function for each of its symbols."""
    extension = folder / "tensorrt_bindings" / "tensorrt.so"
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
