"""Graphs and cards that are broken on purpose: each is pinned to the stage that it breaks first."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from ssd_edge.parity.max_drop import MaxDrop
from tests.ssd_edge.parity.broken_graphs import (
    Change,
    insert,
    noisy_weights,
    set_initializer,
    softmax_over_anchors,
    swapped_columns,
    swapped_offsets,
    weight,
    wrong_default_boxes,
    wrong_mean,
)
from tests.ssd_edge.parity.staged import only, stage, staged

if TYPE_CHECKING:
    from tests.detectors.tiny_detector import Tiny


@pytest.mark.parametrize(
    ("change", "card", "first", "cause"),
    [
        (wrong_mean, {}, "logits", "graph: the network, before any decoding; normalisation"),
        (noisy_weights("backbone"), {}, "logits", "graph: the network"),
        (noisy_weights("classification_head"), {}, "logits", "graph: the network's class head"),
        (noisy_weights("regression_head"), {}, "offsets", "graph: the network's box head"),
        (swapped_offsets, {}, "offsets", "graph: the network's box head"),
        (swapped_columns, {}, "boxes", "decode: boxes are not what the model's own offsets decode into; default boxes"),
        (wrong_default_boxes, {}, "boxes", "decode: boxes are not what"),
        (softmax_over_anchors, {}, "scores", "decode: scores are not what the model's own logits decode into; axis of"),
        (None, {"nms_iou": 0.2}, "card", "nms_iou 0.2, not 0.5: suppression: another IoU"),
        (None, {"score_threshold": 0.3}, "card", "suppression: another score threshold"),
        (None, {"mean": (1.0, 2.0, 3.0)}, "card", "preprocess: pixels are normalised differently"),
        (wrong_mean, {"category_ids": (4, 1)}, "card", "labels: other category ids"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_first_stage_that_departs(
    tiny: Tiny, tmp_path: Path, change: Change | None, card: dict[str, Any], first: str, cause: str
) -> None:
    model = tiny.write(tmp_path / "broken.onnx", change or (lambda model: None), **card)
    report = staged(tiny, model)
    comparison = only(report)
    assert comparison.first is not None
    assert comparison.first.name == first
    assert comparison.conclusion.startswith(f"first stage that departs: {first} (")
    assert cause in comparison.conclusion
    assert comparison.conclusion in report.table()
    earlier = comparison.stages[: comparison.stages.index(comparison.first)]
    assert not any(stage.departs for stage in earlier)


def test_the_file_as_it_was_exported_departs_nowhere(tiny: Tiny) -> None:
    report = staged(tiny, tiny.onnx)
    comparison = only(report)
    assert comparison.first is None
    assert [stage.name for stage in comparison.stages] == [
        "card",
        "logits",
        "offsets",
        "boxes",
        "scores",
        "detections",
        "mAP",
    ]
    assert [stage.departs for stage in comparison.stages] == [False] * 7
    assert comparison.detections.reference > 20  # there is something to compare
    assert comparison.detections.different == 0
    assert "no stage departs" in report.table()
    assert report.notes == ()


def test_a_changed_suppression_shows_in_the_detections_too(tiny: Tiny, tmp_path: Path) -> None:
    comparison = only(staged(tiny, tiny.write(tmp_path / "m.onnx", nms_iou=0.05)))
    assert [stage.name for stage in comparison.stages if stage.departs] == ["card", "detections", "mAP"]
    assert comparison.detections.missed > 0
    assert comparison.detections.extra == 0


@pytest.mark.parametrize("reference", ["tiny.onnx", "tiny.pt"])
def test_any_model_may_be_the_reference(tiny: Tiny, tmp_path: Path, reference: str) -> None:
    broken = tiny.write(tmp_path / "broken.onnx", swapped_columns)
    report = staged(tiny, tiny.checkpoint, tiny.onnx, broken, reference=tiny.folder / reference)
    firsts = [model.comparison.first for model in report.models if model.comparison]
    assert [first and first.name for first in firsts] == [None, None, "boxes"]
    assert report.notes == ()  # all come from one checkpoint


def test_stages_see_what_map_does_not(tiny: Tiny, tmp_path: Path) -> None:
    def slightly_wrong(model: onnx.ModelProto) -> None:
        insert(model, "scores", ("Mul", {}), factor=np.array([0.999], np.float32))

    report = staged(tiny, tiny.write(tmp_path / "m.onnx", slightly_wrong))
    assert report.models[0].passed
    report.check()
    assert only(report).conclusion.startswith("first stage that departs: scores (decode")


def test_an_error_of_decoding_does_not_hide_in_the_noise_of_int8(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny.write(tmp_path / "m.onnx", lambda model: wrong_default_boxes(model, by=0.001), precision="int8")
    comparison = only(staged(tiny, model))
    boxes = stage(comparison, "boxes")
    assert boxes.difference is not None
    assert not comparison.tolerance.departs("boxes", boxes.difference)
    assert boxes.redecoded == pytest.approx(0.001, rel=0.01)
    assert comparison.first is boxes
    assert "decode: boxes are not what the model's own offsets decode into" in comparison.conclusion


def test_other_sizes_part_at_the_card(tiny: Tiny, fixed_model: Callable[..., Path]) -> None:
    other = fixed_model("other.onnx", class_names=("square", "disc"), category_ids=(1, 4), height=32, width=32)
    comparison = only(staged(tiny, other))
    assert comparison.first is not None
    assert comparison.first.name == "card"
    assert "height 32, not 64" in comparison.first.found
    assert stage(comparison, "boxes").departs is None
    assert "2 anchors, the reference" in stage(comparison, "boxes").found


def test_values_that_are_not_finite_depart(tiny: Tiny, tmp_path: Path) -> None:
    def overflow(model: onnx.ModelProto) -> None:
        name, values = weight(model, "regression_head")
        values[0] = np.nan
        set_initializer(model, name, values)

    report = staged(tiny, tiny.write(tmp_path / "nan.onnx", overflow), max_drop=MaxDrop.parse("99%"))
    comparison = only(report)
    assert comparison.first is not None
    assert comparison.first.name == "offsets"
    assert "values are not finite" in comparison.first.found
    assert "overflow" in comparison.conclusion
    json.loads(report.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_only_the_worst_images_are_kept(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("ssd_edge.parity.stages.WORST", 2)
    broken = tiny.write(tmp_path / "broken.onnx", swapped_columns)
    worst = only(staged(tiny, broken)).worst
    assert len(worst) == 2
    assert worst[0].pairs.badness >= worst[1].pairs.badness > 0
    every = [image.pairs.badness for image in only_all(tiny, broken, monkeypatch)]
    assert [image.pairs.badness for image in worst] == sorted(every, reverse=True)[:2]


def only_all(tiny: Tiny, model: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, ...]:
    monkeypatch.setattr("ssd_edge.parity.stages.WORST", 100)
    return only(staged(tiny, model)).worst
