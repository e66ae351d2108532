"""One step of the optimiser: parts of a batch, frozen stages, mixed precision, clipping, `torch.compile`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssd_edge.checkpoint import load_checkpoint
from ssd_edge.data.samples import EpochBatches
from ssd_edge.errors import SsdEdgeError, UsageError
from ssd_edge.models.create import create_model
from ssd_edge.training.config import TrainConfig
from ssd_edge.training.distributed import Group
from ssd_edge.training.optimisation import Optimisation, choose_recipe
from ssd_edge.training.run import train
from ssd_edge.training.updater import Updater, check_parts
from tests.detectors.tiny_arch import WITH_NORM, WITHOUT_NORM
from tests.ssd_edge.training.configs import changed, read_images


def test_accumulated_parts_make_the_same_step(config: TrainConfig) -> None:
    """Without batch norm the gradient is that of the whole batch."""
    whole = changed(config, arch=WITHOUT_NORM, batch=4, epochs=3, output=config.run.output / "whole")
    parts = changed(whole, accumulate=3, output=config.run.output / "parts")
    states = [load_checkpoint(train(c).with_name("last.pt")).training["weights"] for c in (whole, parts)]
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, atol=1e-5, rtol=1e-4)


def test_frozen_stages_stay(config: TrainConfig) -> None:
    config = changed(config, trainable_layers=1)
    torch.manual_seed(config.run.seed)
    start = create_model(config.model.arch, 1).state_dict()
    end = load_checkpoint(train(config)).state_dict
    moved = {name for name, value in end.items() if not torch.equal(value, start[name])}
    assert not any(name.startswith("backbone.blocks.0.") for name in moved)
    assert any(name.startswith("backbone.blocks.1.") for name in moved)


def test_bfloat16_is_used_where_asked_for(config: TrainConfig) -> None:
    states = []
    for amp in (False, True):
        train(changed(config, amp=amp, output=config.run.output / str(amp)))
        states.append(load_checkpoint(config.run.output / str(amp) / "last.pt").state_dict)
    name = "head.regression_head.module_list.0.weight"
    assert states[1][name].dtype == torch.float32
    assert 0 < (states[0][name] - states[1][name]).abs().max() < 0.05


def test_gradients_are_clipped(config: TrainConfig) -> None:
    """By plain SGD: the weights move no further than rate × norm a step."""
    config = changed(config, preset="torchvision", epochs=1, batch=5, clip=1e-3, lr=0.5, warmup=0, weight_decay=0.0)
    torch.manual_seed(config.run.seed)
    start = create_model(config.model.arch, 1)
    end = load_checkpoint(train(config)).state_dict
    moved = torch.cat([(end[name] - p.detach()).flatten() for name, p in start.named_parameters()]).norm()
    assert moved == pytest.approx(0.5 * 1e-3, rel=0.02)


def test_infinite_gradients_are_named_before_they_reach_the_weights(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.nn.utils.clip_grad_norm_", lambda *_: torch.tensor(torch.inf))
    with pytest.raises(SsdEdgeError, match=r"gradient's norm inf: training diverged, on the batch of \d\.png"):
        train(config)


def test_compiled_networks_are_saved_under_the_same_names(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    original = torch.compile
    monkeypatch.setattr(torch, "compile", lambda network: original(network, backend="eager"))
    state = load_checkpoint(train(changed(config, compile=True))).state_dict
    assert state.keys() == create_model(config.model.arch, 1).state_dict().keys()


@pytest.mark.parametrize("epochs", [1, 2, 3, 9, 10, 11, 20, 21])
def test_the_schedule_has_any_length(config: TrainConfig, epochs: int) -> None:
    """torch's one-cycle schedule divides by zero where its first phase is exactly one step."""
    train_set, _ = read_images(config)
    optimisation = Optimisation(epochs=epochs, batch=5)
    recipe = choose_recipe(optimisation, config.model, 5)
    alone = Group(0, 1, torch.device("cpu"))
    batches = EpochBatches(len(train_set), recipe.batch, recipe.epochs, seed=0)
    updater = Updater(create_model(config.model.arch, 1), recipe, alone, batches, optimisation)
    rates: list[float] = []
    for _ in range(epochs):
        rates.append(updater.learning_rate)
        updater.optimizer.step()
        if len(rates) < epochs:
            updater.schedule.step()
    assert all(np.isfinite(rates))
    assert max(rates) <= 2e-3 * 5 / 8  # the preset's, in proportion to the batch


def test_batches_too_small_for_the_processes_are_refused() -> None:
    batches = EpochBatches(10, 2, 1, seed=0, rank=1, world=2)
    with pytest.raises(
        UsageError, match="in 2 processes and 1 parts each leaves a part 1 images; tiny needs at least 2"
    ):
        check_parts(batches, 1, create_model(WITH_NORM, 1))
    check_parts(batches, 1, create_model(WITHOUT_NORM, 1))
