"""The architectures, and adding one in a file of one's own."""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator
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

PAGE = Path(__file__).resolve().parents[2] / "docs" / "backbones.md"
SMALL = "ssdlite256_mobilenet_v3_small"


@pytest.mark.parametrize(
    ("arch", "side", "cells", "anchors", "mean"),
    [
        ("ssd300_vgg16", 300, (38, 19, 10, 5, 3, 1), 8732, 123.0),
        ("ssd512_vgg16", 512, (64, 32, 16, 8, 4, 2, 1), 24564, 123.0),
        ("ssd300_resnet50", 300, (38, 19, 10, 5, 3, 1), 8732, 123.7),
        ("ssdlite320_mobilenet_v3_large", 320, (20, 10, 5, 3, 2, 1), 3234, 127.5),
    ],
)
def test_grids_and_anchor_counts_of_the_papers(
    arch: str, side: int, cells: tuple[int, ...], anchors: int, mean: float
) -> None:
    model = create_model(arch, 3)
    assert model.config.size_hw == (side, side)
    assert model.grid_sizes_hw == [(n, n) for n in cells]
    assert model.default_boxes_xyxy.shape == (anchors, 4)
    assert model.mean[0].item() == pytest.approx(mean, abs=0.05)  # red, 0–255
    assert model.backbone.training  # as any new module, although a look at the grids was taken in between


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
        (head,) = {type(model.head)}
        assert head.__name__ == "SSDHead"
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
    assert SSD512_COCO.steps == (8, 16, 32, 64, 128, 256, 512)
    assert SSD512_COCO.boxes_per_cell == (4, 6, 6, 6, 6, 4, 4)


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


def test_a_name_means_one_architecture() -> None:
    with pytest.raises(UsageError, match="'ssd300_vgg16' is registered already"):
        register_architecture(replace(TWO_MAPS, config=find_architecture("ssd300_vgg16").config))


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
