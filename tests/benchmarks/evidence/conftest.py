"""A step of the evidence script in a scratch folder, and stand-ins for the tools and the index that it calls."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.evidence import absent
from benchmarks.evidence import run as runner
from benchmarks.evidence.packages import Wheel
from tests.benchmarks.evidence.script import ROOT
from tests.benchmarks.evidence.wheels import NATIVE, TARGET, collect, make_wheel


@pytest.fixture
def setup(tmp_path: Path) -> runner.Setup:
    return runner.Setup(ROOT, tmp_path, tmp_path / "log", sys.executable, {"PATH": os.environ["PATH"]})


@pytest.fixture
def evidence(tmp_path: Path) -> runner.Evidence:
    return runner.Evidence(tmp_path / "gpu_evidence.json", {"schema": 1})


@pytest.fixture
def task(setup: runner.Setup, evidence: runner.Evidence) -> Callable[..., runner.Task]:
    def make(limit_s: float = 60, **changes: Any) -> runner.Task:
        for name, value in changes.items():
            setattr(setup, name, value)
        return runner.Task(setup, evidence, evidence.steps.setdefault("step", {}), limit_s)

    return make


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Put a program of this name on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def make(name: str, code: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{code}\n")
        (folder / name).chmod(0o755)

    return make


@pytest.fixture
def dry_task(task: Callable[..., runner.Task], tmp_path: Path) -> Callable[..., runner.Task]:
    """Of a dry run in a repository that holds these files alone, with tqdm hidden."""

    def make(files: dict[str, str]) -> runner.Task:
        root = tmp_path / "repository"
        for name, text in {**files, "tensorrt_rtx.py": ""}.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        hidden = absent.environment(["tqdm"], tmp_path / "hide")
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(root)}
        return task(root=root, environment=environment, dry_run=True, hide=lambda _: hidden)

    return make


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """All that pip finds."""
    folder = tmp_path_factory.mktemp("index")
    make_wheel(folder, "plain", "1.9")
    make_wheel(folder, "plain", "2.1", "deep<3; python_version >= '3.12'", "never; sys_platform == 'win32'", "numpy>=2")
    make_wheel(folder, "deep", "2.5", "extra-less; extra == 'more'")
    make_wheel(folder, "deep", "3.0")
    make_wheel(folder, "zxing-cpp", "3.1", "deep[more]<2.9", tag=NATIVE)
    make_wheel(folder, "extra-less", "1")
    make_wheel(folder, "av", "19.0", size=200_000, tag=NATIVE)
    make_wheel(folder, "cuda-core", "1.2", "cuda-pathfinder>=1.4.2")
    make_wheel(folder, "cuda-bindings", "13.4")
    make_wheel(folder, "cuda-bindings", "14.0")
    make_wheel(folder, "cuda-pathfinder", "1.9")
    make_wheel(folder, "pynvvideocodec", "2.3", "of-nvidia", size=100_000, tag=NATIVE)
    make_wheel(folder, "of-nvidia", "1", size=40_000)
    make_wheel(folder, "tensorrt-rtx-cu13-libs", "1.8", size=500_000, tag="py3-none-manylinux_2_28_x86_64")
    make_wheel(folder, "of-another-python", "1", tag="cp27-cp27mu-manylinux_2_28_x86_64")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_CONFIG_FILE", "/dev/null")
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(folder))
        for name in ("PIP_CONSTRAINT", "PIP_EXTRA_INDEX_URL"):
            patch.delenv(name, raising=False)
        yield folder


@pytest.fixture(scope="module")
def wheels(index: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Wheel]:
    return collect(tmp_path_factory.mktemp("collected"))


@pytest.fixture
def prepare(
    wheels: dict[str, Wheel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[int], tuple[Path, Any]]:
    """Prepare with a budget in bytes: the folder and its manifest."""
    pytest.importorskip("zxingcpp")  # renders the images
    from benchmarks.evidence import prepare as module

    monkeypatch.setattr(module, "MANIFEST_BYTES", 10_000)
    monkeypatch.setattr(module, "PART_BYTES", 150_000)
    monkeypatch.setattr(module, "write_video", lambda path: path.write_bytes(b"v" * 100))

    def run(budget: int) -> tuple[Path, Any]:
        folder = tmp_path / "prepared"
        return folder, module.prepare(folder, budget, list(wheels.values()), TARGET, images=1)

    return run
