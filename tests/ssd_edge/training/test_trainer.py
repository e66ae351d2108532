"""Hooks are called in their order; Ctrl-C, lost images and lost processes end a training after a whole step."""

from __future__ import annotations

import signal

import pytest
import torch

from ssd_edge.checkpoint import load_checkpoint
from ssd_edge.data.samples import EpochBatches
from ssd_edge.errors import DatasetError, SsdEdgeError
from ssd_edge.models.loss import Targets
from ssd_edge.training.config import TrainConfig
from ssd_edge.training.run import train, train_on
from ssd_edge.training.trainer import Trainer
from tests.fakes.killed_samples import KilledSamples
from tests.fakes.noted_trainer import NotedTrainer
from tests.ssd_edge.training.configs import changed, read_images
from tests.ssd_edge.training.histories import epochs_in_history
from tests.ssd_edge.training.interrupts import interrupt_at, stop_at


def test_hooks_are_called_in_their_order(config: TrainConfig) -> None:
    trainer = NotedTrainer(config)
    trainer.run()
    first, second = ["step 0", "step 1", "epoch 1", "checkpoint"], ["step 2", "step 3", "epoch 2", "checkpoint"]
    assert trainer.calls == ["before", *first, *second]
    assert (trainer.step, trainer.sums.steps, trainer.stop) == (4, 0, [])


@pytest.mark.parametrize(
    ("step", "calls"),
    [
        (1, ["before", "step 0", "checkpoint", "stopped"]),
        (2, ["before", "step 0", "step 1", "epoch 1", "checkpoint", "stopped"]),
    ],
)
def test_hooks_of_a_training_that_is_stopped(config: TrainConfig, step: int, calls: list[str]) -> None:
    trainer = NotedTrainer(config, interrupted=step)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert trainer.calls == calls
    assert trainer.stop == [signal.SIGINT]


def test_what_was_trained_is_kept_when_the_end_of_the_epoch_fails(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = NotedTrainer(config)
    monkeypatch.setattr(trainer, "end_epoch", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.run()
    assert trainer.calls == ["before", "step 0", "step 1", "checkpoint"]
    assert trainer.sums.steps == 2  # so a training that goes on from here ends the epoch first


def test_a_loss_that_is_not_finite_is_told_with_its_samples(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.nn.utils.clip_grad_norm_", lambda *_: torch.tensor(torch.nan))
    with pytest.raises(SsdEdgeError, match=r"the loss at step 0 is .*norm nan, on the batch of \d\.png, \d\.png"):
        NotedTrainer(config).run()


def test_ctrl_c_in_the_last_step_of_an_epoch_keeps_its_evaluation(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at(config, 2, monkeypatch)
    assert (config.run.output / "best.pt").exists()
    assert load_checkpoint(config.run.output / "last.pt").training["step"] == 2
    train(changed(config, resume=True))
    assert epochs_in_history(config) == [1, 2]


def test_ctrl_c_in_the_very_last_step_changes_nothing(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_at(4, monkeypatch)
    assert train(config).exists()
    assert load_checkpoint(config.run.output / "last.pt").training["step"] == 4
    assert epochs_in_history(config) == [1, 2]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_goes_away_is_named_and_the_steps_are_kept(config: TrainConfig, workers: int) -> None:
    train_set, val_set = read_images(config)
    gone = train_set.records[0].path
    gone.unlink()
    with pytest.raises(DatasetError) as error:
        train_on(train_set, val_set, changed(config, workers=workers))
    assert str(gone) in str(error.value)
    assert "Traceback" not in str(error.value)
    assert (config.run.output / "last.pt").exists()


def test_a_killed_worker_is_named_and_the_steps_are_kept(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssd_edge.training.run.ImageSamples", KilledSamples)
    with pytest.raises(SsdEdgeError, match=r"a data-loading process is gone \(.*--workers 0"):
        train(changed(config, epochs=8, workers=1))
    assert 1 <= load_checkpoint(config.run.output / "last.pt").training["step"] < 10  # it had fetched ahead


def test_an_image_that_cannot_be_prepared_is_named(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ArithmeticError("too round")

    monkeypatch.setattr("ssd_edge.data.augment.TrainTransform.__call__", fail)
    with pytest.raises(DatasetError, match=r"preparing \d\.png failed \(ArithmeticError: too round\)"):
        train(config)


def test_nan_names_the_images_of_the_batch(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    train_set, val_set = read_images(config)
    original = Trainer.training_step

    def poison_third(trainer: Trainer, images: torch.Tensor, targets: Targets) -> tuple[float, float]:
        if trainer.step == 2:
            targets = Targets(targets.boxes_xyxy * torch.nan, targets.labels)
        return original(trainer, images, targets)

    monkeypatch.setattr(Trainer, "training_step", poison_third)
    with pytest.raises(SsdEdgeError, match=r"the loss at step 2 is nan .* diverged, on the batch of") as error:
        train_on(train_set, val_set, config)
    keys = EpochBatches(len(train_set), 2, 2, config.run.seed).keys(2)
    assert len(keys) == 2
    assert all(train_set.records[index].path.name in str(error.value) for _, index in keys)
