"""Frozen are the layers that torchvision freezes, and nothing of them changes in training."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torchvision.models import mobilenet_v3_large
from torchvision.models.detection.ssd import _vgg_extractor
from torchvision.models.detection.ssdlite import _mobilenet_extractor
from torchvision.models.vgg import cfgs, make_layers

from ssd_edge.errors import UsageError
from ssd_edge.models.backbone_mobilenet import batch_norm
from ssd_edge.models.create import create_model
from ssd_edge.models.freeze import freeze_backbone
from ssd_edge.models.ssd import SSD

LITE = "ssdlite320_mobilenet_v3_large"


def frozen(module: nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if not parameter.requires_grad}


def torchvision_vgg(trainable_layers: int) -> nn.Module:
    net = nn.Module()
    net.features = make_layers(cfgs["D"], batch_norm=False)
    extractor: nn.Module = _vgg_extractor(net, highres=False, trainable_layers=trainable_layers)
    return extractor


def torchvision_mobilenet(trainable_layers: int) -> nn.Module:
    net = mobilenet_v3_large(weights=None, reduced_tail=True, norm_layer=batch_norm)
    extractor: nn.Module = _mobilenet_extractor(net, trainable_layers, batch_norm)
    return extractor


@pytest.mark.parametrize(
    ("arch", "theirs", "stages"), [("ssd300_vgg16", torchvision_vgg, 5), (LITE, torchvision_mobilenet, 6)]
)
def test_the_layers_that_torchvision_freezes(arch: str, theirs: Callable[[int], nn.Module], stages: int) -> None:
    model = create_model(arch, 2)
    counts = []
    for trainable_layers in (*range(stages, -1, -1), 3):  # more and more, then fewer again
        freeze_backbone(model, trainable_layers)
        assert frozen(model.backbone) == frozen(theirs(trainable_layers))
        assert not frozen(model.head)
        counts.append(len(frozen(model)))
    assert counts[0] == 0
    assert counts[:-1] == sorted(set(counts[:-1]))  # each stage has layers
    freeze_backbone(model, stages)
    assert not frozen(model)


def test_stages_of_resnet() -> None:
    model = create_model("ssd300_resnet50", 2)
    parts = ("conv1", "bn1", "layer1", "layer2", "layer3")
    for trainable_layers, expected in ((4, ()), (3, parts[:2]), (2, parts[:3]), (1, parts[:4]), (0, parts)):
        freeze_backbone(model, trainable_layers)
        assert {name.split(".")[1] for name in frozen(model.backbone)} == set(expected)


@pytest.fixture
def model() -> SSD:
    torch.manual_seed(0)
    model = create_model(LITE, 2)
    freeze_backbone(model, trainable_layers=2)
    return model


def test_frozen_layers_keep_their_statistics_in_training(model: SSD) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    raw = model.eval().train()(255 * torch.rand(2, 3, 320, 320))
    (raw.cls_logits.square().mean() + raw.bbox_regression.square().mean()).backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    names = {f"backbone.features.0.{position}." for position in range(13)}
    assert not [name for name in changed if name.startswith(tuple(names))]
    assert any(name.startswith("backbone.features.0.13.") and "running_mean" in name for name in changed)
    assert any(name.startswith("head.") for name in changed)


def test_the_modes_of_frozen_and_other_layers(model: SSD) -> None:
    block, trained = (model.backbone.get_submodule(f"features.{place}") for place in ("0.12", "1"))

    def modes() -> tuple[bool, bool, bool]:
        return model.training, block.training, trained.training

    assert modes() == (True, False, True)
    model.eval()
    assert modes() == (False, False, False)
    freeze_backbone(model, 6)
    assert not block.training  # freezing does not change the mode of the model
    model.train()
    assert modes() == (True, True, True)


def test_a_copy_freezes_its_own_layers(model: SSD) -> None:
    twin = copy.deepcopy(model)
    freeze_backbone(model, 6)
    model.train()
    twin.train()
    assert model.backbone.get_submodule("features.0.0").training
    assert not twin.backbone.get_submodule("features.0.0").training
    assert frozen(twin)
    assert not frozen(model)


@pytest.mark.parametrize("layers", [-1, 7])
def test_stages_that_are_not_there(model: SSD, layers: int) -> None:
    with pytest.raises(UsageError, match=f"{layers} trainable layers; the backbone of {LITE} has 6 stages, expected 0"):
        freeze_backbone(model, layers)
