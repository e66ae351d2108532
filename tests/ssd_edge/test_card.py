"""A card comes out of a file, where any value can have any type."""

import json
import math
import re
from dataclasses import replace
from typing import Any

import pytest

from ssd_edge.card import ModelCard
from ssd_edge.errors import ModelFileError

CARD = ModelCard(
    arch="fixed",
    height=64,
    width=48,
    class_names=("cat", "dog"),
    category_ids=(1, 3),
    mean=(123, 117, 104),
    std=(1.0, 1.0, 1.0),
    score_threshold=0.1,
    nms_iou=0.5,
    candidates=10,
    detections=5,
    metrics={"val_AP": 0.5, "val_APs": math.nan},
)


def test_round_trip() -> None:
    read = ModelCard.from_json(CARD.to_json())
    assert math.isnan(read.metrics["val_APs"])
    assert replace(read, metrics={}) == replace(CARD, metrics={})


DEFAULT_BOXES = {"aspect_ratios": [[2], [2, 3]], "scales": [0.1, 0.5, 0.9], "steps": None, "clip": True}


def test_default_boxes_round_trip_and_are_left_out_where_there_are_none() -> None:
    """Left out: readers from before the field refuse fields that they do not know."""
    assert "default_boxes" not in json.loads(CARD.to_json())
    card = replace(CARD, metrics={}, default_boxes=DEFAULT_BOXES)
    assert json.loads(card.to_json())["default_boxes"] == DEFAULT_BOXES
    assert ModelCard.from_json(card.to_json()) == card
    stepped = {**DEFAULT_BOXES, "steps": [8, 16]}
    assert ModelCard.from_json(replace(card, default_boxes=stepped).to_json()).default_boxes == stepped


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("arch", 1, "arch is 1, expected text"),
        ("precision", None, "precision is None, expected text"),
        ("parent_sha256", 5, "parent_sha256 is 5, expected text or null"),
        ("height", 64.0, "height is 64.0, expected a whole number"),
        ("width", True, "width is True, expected a whole number"),
        ("detections", 2.5, "detections is 2.5, expected a whole number"),
        ("candidates", "10", "candidates is '10', expected a whole number"),
        ("nms_iou", None, "nms_iou is None, expected a finite number"),
        ("score_threshold", math.nan, "score_threshold is nan, expected a finite number"),
        ("class_names", "ab", "class_names is 'ab', expected a list of names"),
        ("class_names", [1, 2], "class_names is [1, 2], expected a list of names"),
        ("category_ids", [1, 2.0], "category_ids is [1, 2.0], expected a list of whole numbers"),
        ("mean", None, "mean is None, expected three finite numbers"),
        ("mean", [1, 2], "mean is [1, 2], expected three finite numbers"),
        ("std", [1, 1, math.inf], "std is [1, 1, inf], expected three finite numbers"),
        ("metrics", [0.5], "metrics is [0.5], expected numbers by name"),
        ("metrics", {"val_AP": "high"}, "metrics is {'val_AP': 'high'}, expected numbers by name"),
        ("default_boxes", [1], "default_boxes is [1], expected null or an object with aspect_ratios"),
        ("default_boxes", {"scales": [1]}, "expected null or an object with aspect_ratios, scales, steps and clip"),
        ("default_boxes", {**DEFAULT_BOXES, "more": 1}, "expected null or an object"),
        ("default_boxes", {**DEFAULT_BOXES, "scales": ["a"]}, "expected null or an object"),
        ("default_boxes", {**DEFAULT_BOXES, "aspect_ratios": [2]}, "expected null or an object"),
        ("default_boxes", {**DEFAULT_BOXES, "clip": 1}, "expected null or an object"),
        ("std", [1, 1, 0], "std must be positive"),
        ("class_names", ["cat"], "1 class_names but 2 category_ids"),
        ("height", 0, "input size 0×48"),
    ],
)
def test_wrong_values_are_named_with_the_file(field: str, value: Any, message: str) -> None:
    text = json.dumps({**json.loads(CARD.to_json()), field: value})
    with pytest.raises(ModelFileError, match=rf"^a\.pt: the model card is not valid: .*{re.escape(message)}"):
        ModelCard.from_json(text, source="a.pt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a model card"),
        ("[1]", "not a model card"),
        ("[" * 100_000, "not a model card"),
        ('{"card_version": 99}', "card version 99, this ssd-edge reads version 1"),
        ('{"card_version": 1}', "incomplete card"),
        ('{"card_version": 1, "colour": 1}', r"unknown card fields \['colour'\]"),
    ],
)
def test_what_is_no_card(text: str, message: str) -> None:
    with pytest.raises(ModelFileError, match=rf"a\.pt: {message}"):
        ModelCard.from_json(text, source="a.pt")
