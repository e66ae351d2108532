"""Code in a separate process on libcuda.c: a driver and a GPU for the real packages, where there is neither.

And FFmpeg's decoding on a GPU, on libnvcuvid.c.
"""

from __future__ import annotations

import importlib.util
import os
import re
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
    _compile(source, folder / "libcuda.so.1")
    return FakeDriver(folder)


def driver_of_pyav(folder: Path, *, decodes: bool = True) -> FakeDriver:
    """The driver with all that PyAV's FFmpeg looks for; skips without PyAV's wheel.

    Args:
        decodes: with a library for NVDEC.
    """
    found = importlib.util.find_spec("av")
    libraries = [] if found is None else list(Path(str(found.origin)).parents[1].glob("av.libs/libavcodec-*"))
    if not libraries:
        pytest.skip("no PyAV, or no wheel with FFmpeg in it")
    # FFmpeg wants all functions to be there that it may call, and has their names among its strings.
    wanted = [name.decode() for name in re.findall(rb"\0(cu[A-Z]\w+|cuvid[A-Z]\w+)(?=\0)", libraries[0].read_bytes())]
    driver = compile_driver(folder, [name for name in wanted if not name.startswith("cuvid")])
    if decodes:
        text = Path(__file__).with_name("libnvcuvid.c").read_text(encoding="utf-8")
        names = {name for name in wanted if name.startswith("cuvid") and f"int {name}(" not in text}
        source = folder / "libnvcuvid.c"
        source.write_text(text + "".join(f"int {name}(void) {{ return 0; }}\n" for name in sorted(names)))
        _compile(source, folder / "libnvcuvid.so.1")
    return driver


def _compile(source: Path, library: Path) -> None:
    options = ["-shared", "-fPIC", "-w", f"-Wl,-soname,{library.name}", "-o", str(library)]
    subprocess.run(["gcc", *options, str(source), "-ldl"], check=True, timeout=120)
