"""A moving average of the weights: smoother than the weights of any one step, and what is evaluated and saved."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

RAMP = 10  # the average of the first steps must not hold on to random weights: decay (1 + n) / (RAMP + n) at most

Model = TypeVar("Model", bound=nn.Module)


class MovingAverage(Generic[Model]):
    """Exponential moving average of a model's parameters and buffers.

    Attributes:
        model: a copy that holds the average; in evaluation mode, without gradients.
        updates: steps averaged so far.
    """

    def __init__(self, model: Model, decay: float):
        self.decay = decay
        self.updates = 0
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the model's weights after a step."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (RAMP + self.updates))
        ours, theirs = self.model.state_dict(), model.state_dict()
        floating = [name for name, value in ours.items() if value.is_floating_point()]
        torch._foreach_lerp_([ours[n] for n in floating], [theirs[n] for n in floating], 1 - decay)
        for name in ours.keys() - set(floating):  # counters of batch norm
            ours[name].copy_(theirs[name])
