"""The presets are what their sources say, and the schedules follow them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ssd_edge.errors import UsageError
from ssd_edge.training.recipes import default_preset, recipe_for
from ssd_edge.training.schedules import make_optimizer, make_schedule

VGG, LITE = "ssd300_vgg16", "ssdlite320_mobilenet_v3_large"


def rates(preset: str, arch: str, steps: int, steps_per_epoch: int) -> list[float]:
    recipe = recipe_for(preset, arch)
    optimizer = make_optimizer(nn.Conv2d(1, 1, 1), recipe, recipe.lr)
    schedule = make_schedule(optimizer, recipe, recipe.lr, steps, steps_per_epoch)
    values = []
    for _ in range(steps):
        values.append(float(schedule.get_last_lr()[0]))
        optimizer.step()
        schedule.step()
    return values


def test_torchvisions_ssd300_by_its_reference_command() -> None:
    """--epochs 120 --lr-steps 80 110 --lr 0.002 --batch-size 4 on 8 GPUs --weight-decay 0.0005."""
    recipe = recipe_for("torchvision", VGG)
    assert (recipe.optimizer, recipe.lr, recipe.momentum, recipe.weight_decay) == ("sgd", 0.002, 0.9, 0.0005)
    assert (recipe.epochs, recipe.batch, recipe.schedule, recipe.ema) == (120, 32, "steps", 0.0)
    values = rates("torchvision", VGG, 1200, 10)
    assert values[9] == pytest.approx(0.002)
    assert values[0] == pytest.approx(0.002 * 0.001)  # the first epoch rises from a thousandth
    assert values[799] == pytest.approx(0.002)
    assert values[800] == pytest.approx(0.0002)
    assert values[1100] == pytest.approx(0.00002)


def test_torchvisions_ssdlite_by_its_reference_command() -> None:
    """--epochs 660 --lr-scheduler cosineannealinglr --lr 0.15 --batch-size 24 on 8 GPUs --weight-decay 0.00004
    --data-augmentation ssdlite, which leaves out colours and zooming."""
    recipe = recipe_for("torchvision", LITE)
    assert (recipe.optimizer, recipe.lr, recipe.lr_batch, recipe.weight_decay) == ("sgd", 0.15, 192, 0.00004)
    assert (recipe.epochs, recipe.photometric, recipe.zoom_out, recipe.iou_crop) == (660, 0.0, 0.0, True)
    values = rates("torchvision", LITE, 660, 1)
    assert values[0] == pytest.approx(0.15)
    assert values[330] == pytest.approx(0.075)
    assert values[659] == pytest.approx(0.15 * (1 + torch.cos(torch.tensor(torch.pi * 659 / 660)).item()) / 2, rel=1e-3)


def test_the_papers_recipe() -> None:
    recipe = recipe_for("paper", VGG)
    assert (recipe.lr, recipe.momentum, recipe.weight_decay, recipe.batch) == (1e-3, 0.9, 5e-4, 32)
    values = rates("paper", VGG, 240, 4)  # thousands of iterations: 160 at 1e-3, 40 at 1e-4, 40 at 1e-5
    assert [values[i] for i in (0, 159, 160, 199, 200, 239)] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5])
    with pytest.raises(UsageError, match="no recipe for SSDlite"):
        recipe_for("paper", LITE)


def test_biases_and_norms_decay_only_where_the_recipe_says_so() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    small = make_optimizer(model, recipe_for("small", LITE), 0.1)
    assert [(len(g["params"]), g["weight_decay"]) for g in small.param_groups] == [(1, 0.02), (3, 0.0)]
    theirs = make_optimizer(model, recipe_for("torchvision", LITE), 0.1)
    assert [(len(g["params"]), g["weight_decay"]) for g in theirs.param_groups] == [(4, 0.00004)]
    model[0].requires_grad_(False)
    assert [len(g["params"]) for g in make_optimizer(model, recipe_for("small", LITE), 0.1).param_groups] == [2]


def test_the_default_depends_on_the_number_of_images() -> None:
    assert default_preset(4999) == default_preset(None) == "small"
    assert default_preset(5000) == "torchvision"
