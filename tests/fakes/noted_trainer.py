"""`NotedTrainer`: a trainer that says which of its hooks were called."""

from __future__ import annotations

import os
import signal

import torch
from torch import Tensor

from ssd_edge.data.samples import ImageSamples
from ssd_edge.models.create import create_model
from ssd_edge.models.loss import Targets
from ssd_edge.training.config import TrainConfig
from ssd_edge.training.distributed import Group
from ssd_edge.training.optimisation import choose_recipe
from ssd_edge.training.recipes import transform_of
from ssd_edge.training.trainer import Trainer
from tests.ssd_edge.training.configs import read_images


class NotedTrainer(Trainer):
    """Notes the hooks as they are called.

    Args:
        interrupted: the number of the step, from 1, in which Ctrl-C comes; 0: in none.
    """

    def __init__(self, config: TrainConfig, interrupted: int = 0) -> None:
        model = create_model(config.model.arch, 1)
        recipe = choose_recipe(config.optimisation, config.model, images=5)
        samples = ImageSamples(read_images(config)[0], transform_of(recipe, model), seed=0)
        super().__init__(model, samples, recipe, Group(0, 1, torch.device("cpu")), config.optimisation, workers=0)
        self.interrupted = interrupted
        self.calls: list[str] = []

    def before_training(self) -> None:
        self.calls.append("before")

    def training_step(self, images: Tensor, targets: Targets) -> tuple[float, float]:
        if self.step + 1 == self.interrupted:
            os.kill(os.getpid(), signal.SIGINT)
        self.calls.append(f"step {self.step}")
        return super().training_step(images, targets)

    def end_epoch(self) -> None:
        assert self.sums.steps == 2
        self.calls.append(f"epoch {self.epoch}")

    def checkpoint(self) -> None:
        self.calls.append("checkpoint")

    def stopped(self) -> None:
        self.calls.append("stopped")
