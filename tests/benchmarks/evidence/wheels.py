"""Tiny wheels, and a folder of them that stands for an index."""

from __future__ import annotations

import hashlib
import random
from base64 import urlsafe_b64encode
from pathlib import Path
from zipfile import ZipFile

from benchmarks.evidence import packages
from benchmarks.evidence.have import read_have

ROOT = Path(__file__).parents[3]
TARGET = packages.Target()
NATIVE = "cp312-cp312-manylinux_2_28_x86_64"
PYPROJECT = """
[project]
dependencies = ["numpy>=1.23", "opencv-python>=4.8", "av>=17.1", "plain>=2", "tomli; python_version < '3.11'"]
[project.optional-dependencies]
demo = ["zxing-cpp>=3"]
train = ["torch>=2.4"]
export = []
cuda13 = ["cuda-core>=1.0.1"]
rtx = ["tensorrt-rtx-cu13-libs>=1.7", "ssd-edge[cuda13]"]
dev = ["ssd-edge[rtx]", "pytest>=8", "ruff"]
"""
HAVE = """Package  Version
-------- -------
numpy==2.5.2
opencv-python-headless
torch 2.11.0
pytest    # any
cuda_core 1.0.1
cuda-pathfinder
"""


def make_wheel(folder: Path, name: str, version: str, *needs: str, tag: str = "py3-none-any", size: int = 0) -> Path:
    """A wheel of one module, with `size` bytes of data."""
    module, info = name.replace("-", "_"), f"{name.replace('-', '_')}-{version}.dist-info"
    files = {
        f"{module}/__init__.py": f"version = {version!r}\n".encode(),
        f"{module}/data": random.Random(name).randbytes(size),  # what xz cannot make smaller
        f"{info}/METADATA": "\n".join(
            [
                "Metadata-Version: 2.1",
                f"Name: {name}",
                f"Version: {version}",
                *(f"Requires-Dist: {n}" for n in needs),
                "",
            ]
        ).encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: {tag}\n".encode(),
    }
    digests = {
        path: urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode() for path, data in files.items()
    }
    record = "".join(f"{path},sha256={digests[path]},{len(data)}\n" for path, data in files.items())
    path = folder / f"{module}-{version}-{tag}.whl"
    with ZipFile(path, "w") as archive:  # stored: as large as its content
        for name_in, data in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n".encode()}.items():
            archive.writestr(name_in, data)
    return path


def collect(folder: Path, have: str = HAVE, pyproject: str = PYPROJECT) -> dict[str, packages.Wheel]:
    """Wheels for a `pyproject.toml` and a list of what is there."""
    (folder / "pyproject.toml").write_text(pyproject)
    (folder / "have").write_text(have)
    requirements = packages.project_requirements(folder / "pyproject.toml", TARGET)
    return packages.collect(requirements, read_have(folder / "have"), TARGET, folder / "cache")


def files_of(wheel: Path) -> dict[str, bytes]:
    with ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
