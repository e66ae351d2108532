"""What the user asks for on top of a preset's recipe."""

from __future__ import annotations

import pytest

from ssd_edge.errors import UsageError
from ssd_edge.training.config import TrainConfig
from ssd_edge.training.optimisation import Optimisation
from ssd_edge.training.recipes import recipe_for
from ssd_edge.training.run import train
from tests.ssd_edge.training.configs import changed


def test_a_warm_up_for_a_schedule_that_has_its_own(config: TrainConfig) -> None:
    with pytest.raises(UsageError, match="rises over its first tenth"):
        train(changed(config, warmup=10))


def test_what_the_user_says_goes_before_the_recipe() -> None:
    recipe = recipe_for("small", "ssdlite320_mobilenet_v3_large")
    optimisation = Optimisation(batch=32, weight_decay=0.5, hflip=0.0)
    asked = optimisation.changes(recipe)
    assert (asked.batch, asked.weight_decay, asked.hflip, asked.epochs) == (32, 0.5, 0.0, recipe.epochs)
    assert asked.lr * asked.batch / asked.lr_batch == pytest.approx(4 * recipe.lr)  # in proportion
    with pytest.raises(UsageError, match="unknown preset 'huge'; there are small, paper, torchvision"):
        Optimisation(preset="huge")
