"""Comparisons stage by stage, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssd_edge.parity.max_drop import MaxDrop
from ssd_edge.parity.report import ParityReport
from ssd_edge.parity.run import parity
from ssd_edge.parity.stages import Stage, StagedComparison

if TYPE_CHECKING:
    from tests.detectors.tiny_detector import Tiny


def staged(tiny: Tiny, *models: Path, reference: Path | None = None, **options: Any) -> ParityReport:
    """The models stage by stage with the reference, the tiny checkpoint unless another is given."""
    defaults: dict[str, Any] = {"max_drop": MaxDrop.parse("1%"), "stages": True, "threads": 1, "progress": False}
    return parity(reference or tiny.checkpoint, models, tiny.dataset, **defaults | options)


def only(report: ParityReport) -> StagedComparison:
    """The comparison of the one model."""
    (model,) = report.models
    assert model.comparison is not None
    return model.comparison


def stage(comparison: StagedComparison, name: str) -> Stage:
    """The stage of that name."""
    (found,) = [stage for stage in comparison.stages if stage.name == name]
    return found
