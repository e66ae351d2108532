"""Default boxes, box coding, matching and loss against values worked out by hand."""

import json
import math
from typing import Any

import pytest
import torch

from ssd_edge.errors import ModelFileError, UsageError
from ssd_edge.models.box_coder import decode_boxes, encode_boxes
from ssd_edge.models.create import create_model
from ssd_edge.models.default_boxes import DefaultBoxConfig, default_boxes_xyxy, linear_scales
from ssd_edge.models.loss import Targets, multibox_loss
from ssd_edge.models.matcher import match
from ssd_edge.models.predict import Predictor


def test_default_boxes_of_two_levels() -> None:
    config = DefaultBoxConfig(aspect_ratios=((), (4,)), scales=(0.25, 0.5, 1.0))
    boxes = default_boxes_xyxy(config, [(1, 2), (1, 1)], (100, 100))
    between = math.sqrt(0.25 * 0.5) / 2
    upper = math.sqrt(0.5) / 2
    expected = [
        [0.125, 0.375, 0.375, 0.625],  # first cell, square of 0.25 around (0.25, 0.5)
        [0.25 - between, 0.5 - between, 0.25 + between, 0.5 + between],
        [0.625, 0.375, 0.875, 0.625],
        [0.75 - between, 0.5 - between, 0.75 + between, 0.5 + between],
        [0.25, 0.25, 0.75, 0.75],
        [0.5 - upper, 0.5 - upper, 0.5 + upper, 0.5 + upper],
        [0.0, 0.375, 1.0, 0.625],  # ratio 4 lies 1.0 × 0.25 …
        [0.375, 0.0, 0.625, 1.0],  # … and stands
    ]
    torch.testing.assert_close(boxes, torch.tensor(expected))


def test_steps_place_the_centres() -> None:
    config = DefaultBoxConfig(aspect_ratios=((),), scales=(0.1, 0.1), steps=(8,))
    boxes = default_boxes_xyxy(config, [(38, 38)], (300, 300))
    centre = (boxes[0, :2] + boxes[0, 2:]) / 2
    torch.testing.assert_close(centre, torch.tensor([4 / 300, 4 / 300]))  # half a step


def test_wrong_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="2 levels need 3 scales, got 2"):
        DefaultBoxConfig(aspect_ratios=((2,), (2,)), scales=(0.1, 0.2))
    with pytest.raises(ValueError, match="1 levels need 1 steps, got 2"):
        DefaultBoxConfig(aspect_ratios=((2,),), scales=(0.1, 0.2), steps=(8, 16))
    with pytest.raises(ValueError, match="those of one level at least"):
        DefaultBoxConfig(aspect_ratios=(), scales=(0.1,))


@pytest.mark.parametrize(
    "wrong", [{"scales": (0.1, 0.0)}, {"scales": (0.1, math.nan)}, {"steps": (-8,)}, {"aspect_ratios": ((math.inf,),)}]
)
def test_numbers_that_make_no_box_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be positive and finite"):
        DefaultBoxConfig(**{"aspect_ratios": ((2,),), "scales": (0.1, 0.2), **wrong})


@pytest.mark.parametrize("steps", [None, (8, 16.5)])
def test_default_boxes_come_back_from_json(steps: tuple[float, ...] | None) -> None:
    config = DefaultBoxConfig(((2, 3.5), ()), (0.1, 0.25, 1), steps, clip=False)
    values = json.loads(json.dumps(config.to_dict()))
    assert values == {
        "aspect_ratios": [[2, 3.5], []],
        "scales": [0.1, 0.25, 1],
        "steps": steps and [8, 16.5],
        "clip": False,
    }
    assert DefaultBoxConfig.from_dict(values) == config


@pytest.mark.parametrize(
    "change",
    [
        {"scales": [0.1]},
        {"scales": "ab"},
        {"scales": [0.1, True]},
        {"scales": None},
        {"aspect_ratios": [2]},
        {"aspect_ratios": [["2"]]},
        {"steps": [8, 8]},
        {"steps": 8},
        {"clip": 1},
        {"colour": 1},
    ],
    ids=repr,
)
def test_what_is_no_default_boxes(change: dict[str, object]) -> None:
    values = {"aspect_ratios": [[2]], "scales": [0.1, 0.2], "steps": None, "clip": True}
    assert DefaultBoxConfig.from_dict(values).boxes_per_cell == (4,)
    for rubbish in ({**values, **change}, {key: values[key] for key in values if key not in change}, None, [1], "x"):
        if rubbish != values:
            with pytest.raises(ModelFileError, match=r"^a\.pt: not default boxes"):
                DefaultBoxConfig.from_dict(rubbish, source="a.pt")


def test_linear_scales() -> None:
    assert linear_scales(0.2, 0.95, 6) == pytest.approx((0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0))


def test_box_coding_with_the_papers_variances() -> None:
    default = torch.tensor([[10.0, 10.0, 30.0, 50.0]])
    box = torch.tensor([[12.0, 8.0, 52.0, 48.0]])  # centre +12 −2, width ×2, height ×1
    expected = torch.tensor([[12 / 20 / 0.1, -2 / 40 / 0.1, math.log(2) / 0.2, 0.0]])
    torch.testing.assert_close(encode_boxes(box, default), expected)
    torch.testing.assert_close(decode_boxes(expected, default), box)


def test_decoding_stays_finite() -> None:
    decoded = decode_boxes(torch.tensor([[0.0, 0.0, 1e6, 1e6]]), torch.tensor([[0.0, 0.0, 16.0, 16.0]]))
    torch.testing.assert_close(decoded, torch.tensor([[-492.0, -492.0, 508.0, 508.0]]))  # 1000 / 16 times


def test_every_object_gets_a_default_box_and_the_later_object_wins() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10], [10, 0, 20, 10], [0, 10, 10, 20]])
    objects = torch.tensor(
        [[[0.0, 0, 10, 8], [11, 1, 13, 3], [12, 1, 14, 3]], [[0.0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]]
    )
    present = torch.tensor([[True, True, True], [False, False, False]])
    # Object 0 overlaps anchor 0 by 0.8; objects 1 and 2 overlap anchor 1 by 0.04 each, and it is best for both.
    assert match(objects, present, anchors).tolist() == [[0, 2, -1], [-1, -1, -1]]


def test_a_batch_without_objects() -> None:
    anchors = torch.rand(5, 4)
    assert match(torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.bool), anchors).tolist() == [[-1] * 5] * 2
    logits = torch.zeros(2, 5, 3, requires_grad=True)
    loss = multibox_loss(
        logits, torch.zeros(2, 5, 4), anchors, Targets.pad([torch.zeros(0, 4)] * 2, [torch.zeros(0).long()] * 2)
    )
    assert loss.total.item() == 0
    loss.total.backward()
    assert logits.grad is not None
    assert not logits.grad.any()


def test_loss_by_hand() -> None:
    """One object on the first of six anchors: three of the five negatives count, the hardest ones."""
    anchors = torch.tensor([[10.0 * i, 0, 10.0 * i + 10, 10] for i in range(6)])
    targets = Targets.pad([torch.tensor([[1.0, 0, 11, 10]])], [torch.tensor([1])])
    logits = torch.zeros(1, 6, 3)
    logits[0, :, 0] = torch.tensor([0.0, 3, 1, 2, 4, 0])  # background of the negatives
    offsets = torch.zeros(1, 6, 4)
    loss = multibox_loss(logits, offsets, anchors, targets)
    # dx = 1 / 10 / 0.1 = 1, the other offsets 0: smooth L1 gives 0.5
    assert loss.localisation.item() == pytest.approx(0.5)
    negatives = sum(math.log(math.exp(b) + 2) - b for b in (0, 1, 2))
    assert loss.classification.item() == pytest.approx(math.log(3) + negatives, rel=1e-5)


def test_predictor_keeps_the_onnx_contract() -> None:
    model = create_model("ssdlite320_mobilenet_v3_large", 4).eval()
    images = torch.randint(0, 256, (2, 320, 320, 3), dtype=torch.uint8)
    with torch.no_grad():
        boxes, scores = Predictor(model)(images)
        raw = model(images.permute(0, 3, 1, 2).float())
    assert (boxes.shape, scores.shape) == ((2, 3234, 4), (2, 3234, 4))
    assert (boxes.dtype, scores.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(scores.sum(2), 1 - raw.cls_logits.softmax(2)[..., 0])


@pytest.mark.parametrize(
    ("arch", "classes", "weights", "message"),
    [
        (
            "yolo",
            3,
            None,
            "unknown architecture 'yolo'; there are .*ssd300_resnet50, ssd300_vgg16, ssd512_vgg16, ssdlite",
        ),
        ("ssd300_vgg16", 0, None, "at least 1 class"),
        ("ssd512_vgg16", 3, "coco", "unknown weights 'coco'; published for ssd512_vgg16: 'imagenet'"),
    ],
)
def test_wrong_arguments(arch: str, classes: int, weights: str | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        create_model(arch, classes, weights=weights)
