"""A detector fits its backbone; likely mistakes of a backbone are named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from ssd_edge.errors import UsageError
from ssd_edge.models.backbone import Backbone
from ssd_edge.models.create import create_model
from ssd_edge.models.default_box_presets import SSD300_VOC
from ssd_edge.models.default_boxes import DefaultBoxConfig
from tests.ssd_edge.models.two_maps import TWO_MAPS, TwoMaps


def test_the_look_at_the_grids_leaves_the_modes_as_they_were() -> None:
    backbone = TwoMaps()
    backbone.coarse.eval()
    replace(TWO_MAPS, backbone=lambda: backbone).make(2)
    assert [module.training for module in (backbone, backbone.fine, backbone.coarse)] == [True, True, False]


def test_what_a_model_gives_is_what_its_meta_run_foretold() -> None:
    """Grid sizes are read off without numbers; here with numbers."""
    model = create_model("ssd300_resnet50", 2).eval()
    with torch.no_grad():
        features = model.backbone(torch.zeros(1, 3, 300, 300))
        raw = model(torch.zeros(1, 3, 300, 300))
    assert [tuple(f.shape[2:]) for f in features] == model.grid_sizes_hw
    assert tuple(f.shape[1] for f in features) == (1024, 512, 512, 256, 256, 256)
    assert (raw.cls_logits.shape, raw.bbox_regression.shape) == ((1, 8732, 3), (1, 8732, 4))


@pytest.mark.parametrize(
    ("arch", "boxes", "message"),
    [
        (
            "ssdlite320_mobilenet_v3_large",
            SSD300_VOC,
            "level 0: 20 rows, 8 pixels apart, span 160 of the image's 320 pixels; .* must be near 16, or steps None",
        ),
        ("ssd300_vgg16", replace(SSD300_VOC, steps=(8, 16, 32, 64, 150, 300)), "level 4: 3 rows, 150 .* span 450"),
    ],
)
def test_steps_that_leave_a_part_of_the_image_without_boxes_are_refused(
    arch: str, boxes: DefaultBoxConfig, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        create_model(arch, 2, default_boxes=boxes)


def test_the_head_sizes_itself_by_the_backbone() -> None:
    model = TWO_MAPS.make(5)
    assert model.grid_sizes_hw == [(8, 12), (2, 3)]
    raw = model(torch.zeros(2, 3, 32, 48))
    assert raw.cls_logits.shape == (2, 8 * 12 * 4 + 2 * 3 * 2, 6)


def test_wrong_channels_are_named() -> None:
    wrong = replace(TWO_MAPS, backbone=lambda: TwoMaps((4, 16)))
    with pytest.raises(UsageError, match=r"declares feature maps of \(4, 16\) channels, but gives \(4, 8\)"):
        wrong.make(2)


class NamedMaps(TwoMaps):
    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override] # as torchvision's backbones
        return dict(zip("ab", super().forward(x), strict=True))


class OneMap(TwoMaps):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        fine: Tensor = self.fine(x)
        return fine


class FlatMaps(TwoMaps):
    def forward(self, x: Tensor) -> list[Tensor]:
        return [feature.flatten(2) for feature in super().forward(x)]


class Undeclared(TwoMaps):
    def __init__(self) -> None:
        super().__init__()
        del self.channels


def one_number() -> TwoMaps:
    return TwoMaps(8)  # type: ignore[arg-type]


class Coarse(TwoMaps):
    def __init__(self) -> None:
        super().__init__()
        self.coarse = nn.Conv2d(4, 8, 9)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (NamedMaps, "gives one dict, expected a list of feature maps; let its forward return a list"),
        (OneMap, "gives one Tensor, expected a list of feature maps; let its forward return a list"),
        (
            FlatMaps,
            r"gives \[1, 4, 96\] among its .*, expected tensors \[batch, channels, rows, columns\]; correct its",
        ),
        (Undeclared, "Undeclared, declares no `channels`; it must declare those of each feature map, such as"),
        (one_number, "TwoMaps, declares `channels` as 8; it must declare those of each feature map, such as"),
        (Coarse, r"does not run on images of 48×32 pixels \(.*Kernel size.*\); choose a larger size_hw, or correct"),
    ],
)
def test_likely_mistakes_of_a_backbone_are_named(backbone: Callable[[], Backbone], message: str) -> None:
    with pytest.raises(UsageError, match=f"^the backbone of two_maps.* {message}"):
        replace(TWO_MAPS, backbone=backbone).make(2)
