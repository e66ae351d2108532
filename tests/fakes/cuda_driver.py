"""Code in a separate process on libcuda.c: a driver and a GPU for the real packages, where there is neither."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class FakeDriver:
    """The library, compiled into a folder."""

    folder: Path

    def run(self, code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run Python code; the calls to the driver are on standard error."""
        libraries = f"{self.folder}:{os.environ.get('LD_LIBRARY_PATH', '')}"
        variables = {name: text for name, text in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            env=variables | {"LD_LIBRARY_PATH": libraries} | environment,
        )


def compile_driver(folder: Path, wanted: Iterable[str] = ()) -> FakeDriver:
    """Compile it, with stubs for those of the wanted functions that it does not have; skips without gcc."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc to compile the stand-in for libcuda")
    text = Path(__file__).with_name("libcuda.c").read_text(encoding="utf-8")
    stubs = [f"int {name}(void) {{ return 0; }}\n" for name in sorted(set(wanted)) if f"int {name}(" not in text]
    source = folder / "libcuda.c"
    source.write_text(text + "".join(stubs), encoding="utf-8")
    library = ["-shared", "-fPIC", "-w", "-Wl,-soname,libcuda.so.1", "-o", str(folder / "libcuda.so.1")]
    subprocess.run(["gcc", *library, str(source), "-ldl"], check=True, timeout=120)
    return FakeDriver(folder)
