"""Shared fixtures."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tiny_detector import Tiny

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


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
    """A tiny detector that is sure of what it finds, and a dataset of just that."""
    from tiny_detector import Tiny  # imports torch

    return Tiny(tmp_path_factory.mktemp("tiny"))
