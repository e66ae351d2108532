"""A configuration that trains in a second."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ssd_edge.training.config import TrainConfig


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    """Six images, two epochs of two steps."""
    from ssd_edge.training.config import RunSettings, TrainConfig  # not at the top: these import torch
    from ssd_edge.training.initial_model import ModelSettings
    from ssd_edge.training.optimisation import Optimisation
    from ssd_edge.training.splits import DataSettings
    from tests.detectors.tiny_arch import WITH_NORM, write_yolo

    return TrainConfig(
        DataSettings(str(write_yolo(tmp_path / "data", 6))),
        RunSettings(tmp_path / "run", workers=0, threads=1, device="cpu"),
        ModelSettings(WITH_NORM),
        Optimisation(epochs=2, batch=2, amp=False),
    )
