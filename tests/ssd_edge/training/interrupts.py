"""Ctrl-C in the middle of a training."""

from __future__ import annotations

import os
import signal

import pytest
from torch import Tensor

from ssd_edge.models.loss import Targets
from ssd_edge.training.config import TrainConfig
from ssd_edge.training.run import train
from ssd_edge.training.trainer import Trainer


def interrupt_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the step of that number (from 1) is under way."""
    original = Trainer.training_step

    def step_and_signal(trainer: Trainer, images: Tensor, targets: Targets) -> tuple[float, float]:
        if trainer.step + 1 == step:
            os.kill(os.getpid(), signal.SIGINT)
        return original(trainer, images, targets)

    monkeypatch.setattr(Trainer, "training_step", step_and_signal)


def stop_at(config: TrainConfig, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train, with Ctrl-C in that step."""
    with monkeypatch.context() as patch:
        interrupt_at(step, patch)
        with pytest.raises(KeyboardInterrupt):
            train(config)
