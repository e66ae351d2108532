"""Default boxes against values worked out by hand, and against torchvision's."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList

from ssd_edge.errors import ModelFileError
from ssd_edge.models.default_boxes import CLIPS, DefaultBoxConfig, default_boxes_xyxy, linear_scales


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


TOLERANCE = 1e-4


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("steps", [None, (8, 16, 40)])
@pytest.mark.parametrize("ratios", [((2,), (2, 3), ()), ((1.3, 2.7, 9), (2,), (3,))])
@pytest.mark.parametrize("scales", [None, (0.1, 0.5, 0.9, 1.3)])
def test_default_boxes_of_all_options(
    scales: tuple[float, ...] | None, ratios: tuple[tuple[float, ...], ...], steps: tuple[float, ...] | None, clip: bool
) -> None:
    """Against torchvision's generator; `scales` None is its automatic choice between a smallest and a largest."""
    size_hw, grids = (90, 160), [(12, 20), (6, 10), (3, 4)]
    automatic = {"min_ratio": 0.1, "max_ratio": 0.8}
    theirs = DefaultBoxGenerator([list(level) for level in ratios], **automatic, scales=scales, steps=steps, clip=clip)
    images, features = torch.zeros(1, 3, *size_hw), [torch.zeros(1, 8, *grid) for grid in grids]
    (expected,) = theirs(ImageList(images, [size_hw]), features)
    config = DefaultBoxConfig(ratios, scales or linear_scales(0.1, 0.8, levels=3), steps, clip)
    assert config.boxes_per_cell == tuple(theirs.num_anchors_per_location())
    boxes = default_boxes_xyxy(config, grids, size_hw) * torch.tensor([160, 90, 160, 90])
    torch.testing.assert_close(boxes, expected, atol=TOLERANCE, rtol=0)


def test_automatic_scales_of_a_single_level() -> None:
    assert list(linear_scales(0.2, 0.7, levels=1)) == DefaultBoxGenerator([[2]], min_ratio=0.2, max_ratio=0.7).scales


def test_shapes_of_another_project_and_what_is_clipped() -> None:
    """By hand: 2 × 1 cells of an image of 20 × 10 pixels, boxes a fifth into their cells."""
    shapes = (((1.5, 0.5), (0.2, 0.4)),)
    config = DefaultBoxConfig(shapes=shapes, steps=(15,), offset=0.2, clip=False)
    assert (config.levels, config.boxes_per_cell) == (1, (2,))
    boxes = {clip: default_boxes_xyxy(replace(config, clip=clip), [(1, 2)], (10, 20)) for clip in (False, True, *CLIPS)}
    free = [[-0.6, 0.05, 0.9, 0.55], [0.05, 0.1, 0.25, 0.5], [0.15, 0.05, 1.65, 0.55], [0.8, 0.1, 1.0, 0.5]]
    torch.testing.assert_close(boxes[False], torch.tensor(free))
    torch.testing.assert_close(boxes[True][0], torch.tensor([-0.35, 0.05, 0.65, 0.55]))
    torch.testing.assert_close(boxes["centres"][2], boxes[True][2])  # the centre lies within the image
    torch.testing.assert_close(boxes["corners"], torch.tensor(free).clamp(0, 1))
    far = default_boxes_xyxy(replace(config, clip="centres", steps=(18,)), [(1, 2)], (10, 20))
    torch.testing.assert_close(far[3], torch.tensor([0.9, 0.16, 1.1, 0.56]))  # from 1.08 to 1
    assert DefaultBoxConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    "wrong",
    [{"scales": (0.1, 0.2)}, {"shapes": ((),)}, {"shapes": (((0.1,),),)}, {"clip": "corner"}, {"offset": 2}],
    ids=repr,
)
def test_shapes_that_do_not_fit(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"shapes|clip|offset"):
        DefaultBoxConfig(**{"shapes": (((0.1, 0.1),),), **wrong})
