"""VGG's L2 norm in its two forms, and its layers with batch norms."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision.models import vgg16_bn

from ssd_edge.models.backbone_vgg import AMDEGROOT_NORM, TORCHVISION_NORM, VGGFeatures
from ssd_edge.models.create import create_model


def test_what_the_l2_norm_divides_by() -> None:
    x = torch.zeros(1, 512, 1, 3)
    x[0, :2, 0, 1] = torch.tensor((3e-11, 4e-11))
    x[0, :2, 0, 2] = torch.tensor((3.0, 4.0))
    assert torch.equal(x / TORCHVISION_NORM.divisor(x), functional.normalize(x))
    assert AMDEGROOT_NORM.divisor(x).flatten().tolist() == pytest.approx([1e-10, 1.5e-10, 5], rel=1e-6)


def test_batch_norms_are_those_of_vgg16_bn() -> None:
    backbone = VGGFeatures(batch_norm=True)
    theirs = vgg16_bn(weights=None).features[:43]  # without the last pooling
    ours = [layer for stage in backbone.stages() for layer in stage]
    assert [type(layer) for layer in ours] == [type(layer) for layer in theirs]
    assert [len(stage) for stage in backbone.stages()] == [6, 7, 10, 10, 10]  # each but the first from its pooling on
    assert all(isinstance(stage[0], nn.MaxPool2d) for stage in backbone.stages()[1:])


@pytest.mark.parametrize(("arch", "boxes"), [("ssd300_vgg16", 8732), ("ssd512_vgg16", 24564)])
@pytest.mark.parametrize("variant", ["amdegroot", "bn"])
def test_variants_have_the_same_levels(arch: str, boxes: int, variant: str) -> None:
    model = create_model(f"{arch}_{variant}", 2)
    assert model.default_boxes_xyxy.shape == (boxes, 4)
    norms = any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert norms == (variant == "bn")
