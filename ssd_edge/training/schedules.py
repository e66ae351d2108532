"""Optimisers and learning-rate schedules of the recipes; all of torch's own."""

from __future__ import annotations

import math
from typing import Any

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from ssd_edge.training.recipes import Recipe

STEP_FACTOR = 0.1  # of the learning rate at each milestone
WARMUP_START = 0.001  # of the learning rate, at which the linear rise begins; torchvision's reference script
ONE_CYCLE_RISE = 0.1  # of the training


def make_optimizer(model: nn.Module, recipe: Recipe, lr: float) -> Optimizer:
    """The recipe's optimiser for what can be trained of the model.

    Unless `decay_all`, only weights of convolutions decay: shrinking biases and norms regularises nothing.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trainable if recipe.decay_all or p.ndim > 1]
    others = [p for p in trainable if not (recipe.decay_all or p.ndim > 1)]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if recipe.optimizer == "sgd":
        return SGD(groups, lr=lr, momentum=recipe.momentum)
    return AdamW(groups, lr=lr, betas=(recipe.momentum, 0.999))


def make_schedule(optimizer: Optimizer, recipe: Recipe, lr: float, steps: int, steps_per_epoch: int) -> LRScheduler:
    """The recipe's schedule over `steps` steps."""
    if recipe.schedule == "one_cycle":
        # OneCycleLR divides by zero where the rise is exactly one step.
        return OneCycleLR(optimizer, lr, steps, pct_start=ONE_CYCLE_RISE if steps > 20 else 0.3)
    warmup = min(recipe.warmup, steps_per_epoch - 1)

    def factor(step: int) -> float:
        rise = min(1.0, WARMUP_START + (1 - WARMUP_START) * step / warmup) if warmup > 0 else 1.0
        done = min(step / steps, 1.0)
        if recipe.schedule == "cosine":
            return rise * 0.5 * (1 + math.cos(math.pi * done))
        return rise * STEP_FACTOR ** sum(done >= milestone for milestone in recipe.milestones)

    return LambdaLR(optimizer, factor)
