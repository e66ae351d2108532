"""The JSON of a comparison."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.ssd_edge.parity.broken_graphs import swapped_columns
from tests.ssd_edge.parity.staged import staged

if TYPE_CHECKING:
    from tests.detectors.tiny_detector import Tiny


def test_no_difference_at_all_is_json_too(tiny: Tiny) -> None:
    report = staged(tiny, tiny.onnx, reference=tiny.onnx)
    assert "∞" in report.table()
    text = report.to_json()
    figures = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    logits = figures["models"][0]["comparison"]["stages"][1]["difference"]
    assert (logits["max"], logits["snr_db"]) == (0, None)


def test_the_json_has_every_stage(tiny: Tiny, tmp_path: Path) -> None:
    broken = tiny.write(tmp_path / "broken.onnx", swapped_columns)
    figures = json.loads(staged(tiny, tiny.onnx, broken).to_json())
    good, bad = (model["comparison"] for model in figures["models"])
    assert good["first_stage_that_departs"] is None
    assert bad["first_stage_that_departs"] == "boxes"
    boxes = next(stage for stage in bad["stages"] if stage["name"] == "boxes")
    assert set(boxes["difference"]) == {
        "values",
        "non_finite",
        "max",
        "mean",
        "p999",
        "max_scaled",
        "cosine",
        "snr_db",
    }
    assert boxes["redecoded"] > 1e-2
    assert good["tolerance"]["largest"] == 1e-4
    assert len(bad["worst_images"]) == 6  # all images there are, as fewer than eight
    assert "comparison" not in figures["reference"]
