"""The architectures, and adding one in a file of one's own."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import mobilenet_v3_small

from ssd_edge.checkpoint import Checkpoint, model_from, model_from_checkpoint
from ssd_edge.errors import ModelFileError, UsageError
from ssd_edge.models.architecture import ARCHITECTURES, Architecture, find_architecture, register_architecture
from ssd_edge.models.backbone import Backbone
from ssd_edge.models.create import create_model
from ssd_edge.models.default_box_presets import PRESETS, SSD300_VOC, SSD512_COCO, SSD512_VOC
from ssd_edge.models.default_boxes import DefaultBoxConfig
from ssd_edge.models.freeze import freeze_backbone
from ssd_edge.models.head import ssd_head
from ssd_edge.models.ssd import SSD

PAGE = Path(__file__).resolve().parents[3] / "docs" / "backbones.md"
SMALL = "ssdlite256_mobilenet_v3_small"


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


def test_the_look_at_the_grids_leaves_the_modes_as_they_were() -> None:
    backbone = TwoMaps()
    backbone.coarse.eval()
    replace(TWO_MAPS, backbone=lambda: backbone).make(2)
    assert (backbone.training, backbone.fine.training, backbone.coarse.training) == (True, True, False)


def test_extra_layers_of_resnet() -> None:
    """NVIDIA's `_build_additional_features`: in, middle and out of each block; 3×3 behind 1×1, no bias, batch norm."""
    shapes = [
        (1024, 256, 512, 2, 1),
        (512, 256, 512, 2, 1),
        (512, 128, 256, 2, 1),
        (256, 128, 256, 1, 0),
        (256, 128, 256, 1, 0),
    ]
    extra = create_model("ssd300_resnet50", 2).backbone.extra
    for block, (channels, middle, out, stride, padding) in zip(extra, shapes, strict=True):
        first, norm1, _, second, norm2, _ = block
        assert [type(layer) for layer in block] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 2
        assert (first.weight.shape, first.stride, first.padding) == ((middle, channels, 1, 1), (1, 1), (0, 0))
        assert (second.weight.shape, second.stride) == ((out, middle, 3, 3), (stride, stride))
        assert second.padding == (padding, padding)
        assert (first.bias, second.bias) == (None, None)
        assert (norm1.num_features, norm2.num_features) == (middle, out)


def test_what_a_model_gives_is_what_its_meta_run_foretold() -> None:
    """Grid sizes are read off without numbers; here with numbers."""
    model = create_model("ssd300_resnet50", 2).eval()
    with torch.no_grad():
        features = model.backbone(torch.zeros(1, 3, 300, 300))
        raw = model(torch.zeros(1, 3, 300, 300))
    assert [tuple(f.shape[2:]) for f in features] == model.grid_sizes_hw
    assert tuple(f.shape[1] for f in features) == (1024, 512, 512, 256, 256, 256)
    assert (raw.cls_logits.shape, raw.bbox_regression.shape) == ((1, 8732, 3), (1, 8732, 4))


def test_heads_and_extras_start_as_in_the_papers() -> None:
    """Xavier's uniform range and zero biases for SSD, N(0, 0.03) for SSDlite."""
    for arch in ("ssd300_vgg16", "ssd512_vgg16", "ssd300_resnet50"):
        model = create_model(arch, 2)
        new = [model.head.classification_head, model.head.regression_head, *model.backbone.extra[1:]]
        for conv in (layer for module in new for layer in module.modules() if isinstance(layer, nn.Conv2d)):
            area = conv.kernel_size[0] * conv.kernel_size[1]
            limit = (6 / (area * (conv.in_channels + conv.out_channels))) ** 0.5
            assert 0.95 * limit < conv.weight.abs().max() <= limit
            assert conv.bias is None or not conv.bias.any()
    lite = create_model("ssdlite320_mobilenet_v3_large", 2)
    last = lite.head.classification_head.module_list[0][1]
    assert last.weight.std().item() == pytest.approx(0.03, rel=0.1)
    assert not last.bias.any()


@pytest.mark.parametrize(
    ("name", "side", "smallest", "between", "largest"),
    [  # from the original prototxts: min_size and max_size of the first level, min_size and max_size of the last
        ("ssd300_coco", 300, 21.0, 45.0, (261.0, 315.0)),
        ("ssd300_voc", 300, 30.0, 60.0, (264.0, 315.0)),
        ("ssd512_coco", 512, 20.48, 51.2, (460.8, 542.72)),
        ("ssd512_voc", 512, 35.84, 76.8, (460.8, 537.6)),
    ],
)
def test_presets_have_the_sizes_of_the_original_prototxts(
    name: str, side: int, smallest: float, between: float, largest: tuple[float, float]
) -> None:
    scales = PRESETS[name].scales
    assert (scales[0] * side, scales[1] * side) == pytest.approx((smallest, between))
    assert (scales[-2] * side, scales[-1] * side) == pytest.approx(largest)


def test_presets_in_full() -> None:
    pixels = {300: SSD300_VOC, 512: SSD512_VOC}
    sizes = {side: [round(s * side, 2) for s in config.scales] for side, config in pixels.items()}
    assert sizes == {
        300: [30, 60, 111, 162, 213, 264, 315],
        512: [35.84, 76.8, 153.6, 230.4, 307.2, 384, 460.8, 537.6],
    }
    assert [round(s * 512, 2) for s in SSD512_COCO.scales] == [
        20.48,
        51.2,
        133.12,
        215.04,
        296.96,
        378.88,
        460.8,
        542.72,
    ]
    for config in (SSD512_COCO, SSD512_VOC):
        assert config.steps == (8, 16, 32, 64, 128, 256, 512)
        assert config.aspect_ratios == ((2,), (2, 3), (2, 3), (2, 3), (2, 3), (2,), (2,))


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


class TwoMaps(Backbone):
    """Small, and wrong about its channels where `claimed` says so."""

    def __init__(self, claimed: tuple[int, ...] = (4, 8)) -> None:
        super().__init__()
        self.channels = claimed
        self.fine = nn.Conv2d(3, 4, 3, stride=4)
        self.coarse = nn.Conv2d(4, 8, 3, stride=4)

    def forward(self, x: Tensor) -> list[Tensor]:
        fine = self.fine(x)
        return [fine, self.coarse(fine)]


TWO_MAPS = Architecture(
    replace(
        find_architecture("ssd300_vgg16").config,
        arch="two_maps",
        size_hw=(32, 48),
        default_boxes=DefaultBoxConfig(((2,), ()), (0.2, 0.5, 0.9)),
    ),
    TwoMaps,
    ssd_head,
)


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
    def forward(self, x: Tensor) -> dict[str, Tensor]:  # as torchvision's backbones
        return dict(zip("ab", super().forward(x), strict=True))


class OneMap(TwoMaps):
    def forward(self, x: Tensor) -> Tensor:
        return self.fine(x)


class FlatMaps(TwoMaps):
    def forward(self, x: Tensor) -> list[Tensor]:
        return [feature.flatten(2) for feature in super().forward(x)]


class Undeclared(TwoMaps):
    def __init__(self) -> None:
        super().__init__()
        del self.channels


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
        (lambda: TwoMaps(8), "TwoMaps, declares `channels` as 8; it must declare those of each feature map, such as"),
        (Coarse, r"does not run on images of 48×32 pixels \(.*Kernel size.*\); choose a larger size_hw, or correct"),
    ],
)
def test_likely_mistakes_of_a_backbone_are_named(backbone: Callable[[], Backbone], message: str) -> None:
    with pytest.raises(UsageError, match=f"^the backbone of two_maps.* {message}"):
        replace(TWO_MAPS, backbone=backbone).make(2)


def test_a_name_means_one_architecture() -> None:
    with pytest.raises(UsageError, match=r"'ssd300_vgg16' is registered already, by ssd_edge\.models\.backbone_vgg;"):
        register_architecture(replace(TWO_MAPS, config=find_architecture("ssd300_vgg16").config))


def test_a_module_may_register_its_own_again() -> None:
    """As when a cell of a notebook is run again."""
    again = replace(TWO_MAPS, config=replace(TWO_MAPS.config, nms_iou=0.3))
    try:
        register_architecture(TWO_MAPS)
        register_architecture(again)
        assert find_architecture("two_maps") is again
    finally:
        ARCHITECTURES.pop("two_maps", None)


@pytest.fixture
def my_backbone(tmp_path: Path) -> Iterator[Path]:
    """The example of docs/backbones.md, as the file that it says it is; what it registers is gone after the test."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    path = tmp_path / "my_backbone.py"
    path.write_text(code, encoding="utf-8")
    yield path
    ARCHITECTURES.pop(SMALL, None)


def test_the_example_of_the_documentation_works(my_backbone: Path) -> None:
    with pytest.raises(UsageError, match=f"unknown architecture '{SMALL}'.*once the file that registers it"):
        create_model(SMALL, 3)
    example = runpy.run_path(str(my_backbone))
    model = create_model(SMALL, 3)
    assert isinstance(model, SSD)
    assert model.grid_sizes_hw == [(16, 16), (8, 8), (4, 4), (2, 2)]
    raw = model.eval()(torch.zeros(1, 3, 256, 256))
    assert raw.cls_logits.shape == (1, (256 + 64 + 16 + 4) * 6, 4)
    published = mobilenet_v3_small(weights=None).state_dict()
    shapes = {example["imagenet_name"](name): value.shape for name, value in published.items()}
    pretrained = ("backbone.fine.", "backbone.coarse.")
    ours = {name: value.shape for name, value in model.state_dict().items() if name.startswith(pretrained)}
    assert {name: shape for name, shape in shapes.items() if name} == ours
    freeze_backbone(model, trainable_layers=0)
    assert {name for name, value in model.named_parameters() if not value.requires_grad} == {
        name for name, _ in model.named_parameters() if name.startswith(pretrained)
    }
    again = model_from(Checkpoint(model.make_card(("a", "b", "c"), (1, 2, 3)), model.state_dict()), source="a.pt")
    torch.testing.assert_close(again(torch.zeros(1, 3, 256, 256)).cls_logits, raw.cls_logits)


@pytest.mark.slow
def test_the_example_trains_by_the_command_line(my_backbone: Path, fixed_dataset: Path, tmp_path: Path) -> None:
    run = runpy.run_path(str(my_backbone))["main"]
    options = ["--arch", SMALL, "--epochs", "1", "--batch", "2", "--preset", "small", "--workers", "0"]
    assert run(["train", str(fixed_dataset), "-o", str(tmp_path / "run"), *options, "--trainable-layers", "1"]) == 0
    model, card = model_from_checkpoint(tmp_path / "run" / "last.pt")
    assert (card.arch, card.class_names, model.grid_sizes_hw[0]) == (SMALL, ("qr_code", "aztec"), (16, 16))
