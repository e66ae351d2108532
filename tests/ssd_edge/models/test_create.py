"""Models by name: grids and anchors of the papers, default boxes of one's own, wrong arguments."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ssd_edge.checkpoint import Checkpoint, model_from
from ssd_edge.errors import ModelFileError, UsageError
from ssd_edge.models.create import create_model
from ssd_edge.models.default_box_presets import PRESETS, SSD512_COCO
from ssd_edge.models.default_boxes import DefaultBoxConfig


@pytest.mark.parametrize(
    ("arch", "side", "cells", "anchors", "mean", "std"),
    [
        ("ssd300_vgg16", 300, (38, 19, 10, 5, 3, 1), 8732, (123.0, 117.0, 104.0), (1, 1, 1)),
        ("ssd512_vgg16", 512, (64, 32, 16, 8, 4, 2, 1), 24564, (123.0, 117.0, 104.0), (1, 1, 1)),
        ("ssd300_resnet50", 300, (38, 19, 10, 5, 3, 1), 8732, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
        ("ssdlite320_mobilenet_v3_large", 320, (20, 10, 5, 3, 2, 1), 3234, (127.5,) * 3, (127.5,) * 3),
        ("ssdlite320_mobilenet_v3_large_full_tail", 320, (20, 10, 5, 3, 2, 1), 3234, (127.5,) * 3, (127.5,) * 3),
    ],
)
def test_grids_and_anchor_counts_of_the_papers(
    arch: str, side: int, cells: tuple[int, ...], anchors: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    model = create_model(arch, 3)
    assert model.config.size_hw == (side, side)
    assert model.grid_sizes_hw == [(n, n) for n in cells]
    assert model.default_boxes_xyxy.shape == (anchors, 4)
    assert model.mean.flatten().tolist() == pytest.approx(mean, abs=0.002)  # red, green, blue, 0–255
    assert model.std.flatten().tolist() == pytest.approx(std, abs=0.002)


def test_default_boxes_of_ones_own_travel_in_the_card() -> None:
    boxes = DefaultBoxConfig(((2,), (2, 3), (2,), (2,), (2,), (2, 3, 4)), (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0))
    model = create_model("ssdlite320_mobilenet_v3_large", 2, default_boxes=boxes)
    assert model.config.default_boxes == boxes
    assert model.default_boxes_xyxy.shape == (400 * 4 + 100 * 6 + 25 * 4 + 9 * 4 + 4 * 4 + 8, 4)
    card = model.make_card(("cat", "dog"), (1, 2))
    assert card.default_boxes == boxes.to_dict()
    again = model_from(Checkpoint(type(card).from_json(card.to_json()), model.state_dict()), source="a.pt")
    torch.testing.assert_close(again.default_boxes_xyxy, model.default_boxes_xyxy)
    own = create_model("ssdlite320_mobilenet_v3_large", 2, default_boxes=PRESETS["ssdlite320"])
    assert own.make_card(("cat", "dog"), (1, 2)).default_boxes is None


def test_default_boxes_for_another_number_of_levels_are_refused() -> None:
    with pytest.raises(UsageError, match="default boxes for 7 levels, but ssd300_vgg16 has 6 feature maps"):
        create_model("ssd300_vgg16", 2, default_boxes=SSD512_COCO)
    model = create_model("ssdlite320_mobilenet_v3_large", 1)
    card = replace(model.make_card(("cat",), (1,)), default_boxes=SSD512_COCO.to_dict())
    with pytest.raises(ModelFileError, match=r"^a\.pt: default boxes for 7 levels"):
        model_from(Checkpoint(card, model.state_dict()), source="a.pt")


@pytest.mark.parametrize(
    ("arch", "classes", "weights", "message"),
    [
        (
            "yolo",
            3,
            None,
            "unknown architecture 'yolo'; there are .*ssd300_resnet50, ssd300_vgg16, .*ssd512_vgg16, .*ssdlite",
        ),
        ("ssd300_vgg16", 0, None, "at least 1 class"),
        ("ssd512_vgg16", 3, "coco", "unknown weights 'coco'; published for ssd512_vgg16: 'imagenet'"),
    ],
)
def test_wrong_arguments(arch: str, classes: int, weights: str | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        create_model(arch, classes, weights=weights)
