"""Ctrl-C, lost images and lost processes end a training after a whole step; none of its steps is lost."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from ssd_edge.checkpoint import load_checkpoint
from ssd_edge.data.augment import Sample
from ssd_edge.data.samples import EpochBatches, ImageSamples, Key
from ssd_edge.errors import DatasetError, SsdEdgeError
from ssd_edge.models.loss import Targets
from ssd_edge.training.config import TrainConfig
from ssd_edge.training.run import train, train_on
from ssd_edge.training.trainer import Trainer
from tests.ssd_edge.training.configs import changed, read_images
from tests.ssd_edge.training.histories import epochs_in_history
from tests.ssd_edge.training.interrupts import interrupt_at, stop_at


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


class KilledSamples(ImageSamples):
    """The sixth epoch kills the process that loads its first sample, as a system out of memory would."""

    def __getitem__(self, key: Key) -> Sample | DatasetError:
        if key[0] == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(key)


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
