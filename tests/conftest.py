"""Shared fixtures."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ssd_edge.card import ONNX_METADATA_KEY
from ssd_edge.cli.errors import EXTRA_OF_PACKAGE
from tests.detectors.colour_cells import COLOUR_CARD, colour_model

if TYPE_CHECKING:
    from tests.detectors.exported_architectures import Exported
    from tests.detectors.tiny_detector import Tiny

# What the extras of pyproject.toml bring and test modules import at their top; a Jetson's install has none of it.
OPTIONAL = (*EXTRA_OF_PACKAGE, "PIL")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # OpenCV reads it once, whichever test opens the first video
ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Skip a test module that imports an optional package which is not installed, with the package's name.

    So `pytest -m gpu` runs its tests on a machine that has the packages of those tests alone.
    """
    report = yield
    if report.outcome == "failed" and (absent := absent_package(str(report.longrepr))):
        report.outcome = "skipped"
        report.longrepr = (str(collector.path), 0, f"Skipped: {absent} is not installed")
    return report


def absent_package(failure: str) -> str | None:
    """The optional package for want of which an import failed; None: it failed for another reason."""
    found = re.search(r"ModuleNotFoundError: (?:No module named|import of) '?(\w+)", failure)
    if found is None or found[1] not in OPTIONAL:
        return None
    return None if importlib.util.find_spec(found[1]) else found[1]


@pytest.fixture(autouse=True)
def _log_level_as_it_was() -> Iterator[None]:
    """The command line sets it for its process; in this one that would decide what later tests see."""
    logger = logging.getLogger("ssd_edge")
    before = logger.level
    yield
    logger.setLevel(before)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the real data (BCCD, COCO128, photographs of codes, a video); skips where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real data at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A tiny detector that is sure of what it finds, and a dataset of just that; skips without torch."""
    for package in ("torch", "safetensors"):
        pytest.importorskip(package)
    from tests.detectors.tiny_detector import Tiny  # imports torch

    return Tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def export_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """The fp32 export of an architecture, made once for all tests and workers of this run."""
    from tests.detectors.exported_architectures import export_once  # imports torch

    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    return lambda arch: export_once(shared, arch)


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[..., Path]:
    """Write a variant of the model: keyword arguments of `colour_model`, and changes to its card."""
    onnx = pytest.importorskip("onnx")

    def make(name: str = "colour.onnx", *, card: dict[str, Any] | None = None, **changes: Any) -> Path:
        text = replace(COLOUR_CARD, **(card or {})).to_json()
        path = tmp_path / name
        onnx.save(colour_model(changes.pop("metadata", {ONNX_METADATA_KEY: text}), **changes), path)
        return path

    return make


@pytest.fixture
def model_path(make_model: Callable[..., Path]) -> Path:
    """The model as it should be."""
    return make_model()
