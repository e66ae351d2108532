"""`Updater`: one update of a network's weights, in mixed precision and by several processes where wanted."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ssd_edge.data.samples import EpochBatches
from ssd_edge.errors import SsdEdgeError, UsageError
from ssd_edge.models.batch_norms import batch_norms
from ssd_edge.models.freeze import freeze_backbone
from ssd_edge.models.loss import Targets, multibox_loss
from ssd_edge.models.matcher import match
from ssd_edge.models.ssd import SSD
from ssd_edge.training.distributed import Group
from ssd_edge.training.ema import MovingAverage
from ssd_edge.training.optimisation import Optimisation
from ssd_edge.training.precision import choose_type
from ssd_edge.training.recipes import Recipe
from ssd_edge.training.schedules import make_optimizer, make_schedule


class NotFiniteError(SsdEdgeError):
    """The loss or its gradient is infinite or NaN; the weights are still those before the step."""

    def __init__(self, localisation: float, classification: float, norm: float) -> None:
        super().__init__(
            f"{localisation} (localisation) + {classification} (classification), its gradient's norm {norm}"
        )


class Updater:
    """A model in training, with its optimiser, learning-rate schedule and moving average.

    Attributes:
        model: the model that is trained, on the group's device.
        average: of its weights; None: the recipe has none.
        optimizer, schedule: torch's.
    """

    def __init__(
        self, model: SSD, recipe: Recipe, group: Group, batches: EpochBatches, optimisation: Optimisation
    ) -> None:
        """Put the model on the device and prepare training.

        Args:
            batches: their size and number, which the learning rate and its schedule depend on.

        Raises:
            UsageError: as `freeze_backbone` and `check_parts`.
        """
        check_parts(batches, optimisation.accumulate, model)
        self._group, self._clip, self._accumulate = group, recipe.clip or torch.inf, optimisation.accumulate
        device = group.device
        half = choose_type(model, device, optimisation.amp)
        self._autocast = torch.autocast(device.type, half or torch.bfloat16, enabled=half is not None)
        self._scaler = torch.amp.GradScaler(device.type, enabled=half == torch.float16)
        # Channels last is the layout that convolutions want on both kinds of device.
        model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model: SSD = group.with_common_norms(model)
        if optimisation.trainable_layers is not None:
            freeze_backbone(self.model, optimisation.trainable_layers)
        self.average = MovingAverage(self.model, recipe.ema) if recipe.ema else None
        network = group.wrap(self.model)
        self._parallel = network if isinstance(network, DistributedDataParallel) else None
        self._network: nn.Module = torch.compile(network) if optimisation.compile else network  # type: ignore[assignment]
        height, width = model.config.size_hw
        self._scale = torch.tensor([width, height, width, height], device=device)
        self._anchors = model.default_boxes_xyxy * self._scale  # [anchors, 4] pixels

        lr = recipe.lr * batches.batch / recipe.lr_batch if optimisation.lr is None else optimisation.lr
        steps = recipe.epochs * batches.steps_per_epoch
        self.optimizer = make_optimizer(self.model, recipe, lr)
        self.schedule = make_schedule(self.optimizer, recipe, lr, steps, batches.steps_per_epoch)

    @property
    def evaluated_model(self) -> SSD:
        """The model to evaluate and save: the moving average where there is one."""
        return self.average.model if self.average else self.model

    @property
    def learning_rate(self) -> float:
        """Of the next update."""
        return float(self.schedule.get_last_lr()[0])

    def update(self, images: Tensor, targets: Targets) -> tuple[float, float]:
        """One step of the optimiser; returns both parts of the loss, of all processes together.

        Args:
            images: uint8 [batch, 3, height, width] RGB.
            targets: boxes as fractions of the image.

        Raises:
            NotFiniteError: the loss or its gradient is not finite.
        """
        images = images.to(self._group.device, non_blocking=True)
        targets = targets.to(self._group.device)
        self.optimizer.zero_grad(set_to_none=True)
        parts = self._backward(images, Targets(targets.boxes_xyxy * self._scale, targets.labels))
        self._scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self._clip)
        localisation, classification, norm = torch.stack((*self._group.sum(parts), norm)).tolist()
        # float16's gradients may overflow: the scaler leaves that step out, and scales less.
        if not np.isfinite((localisation, classification, 0 if self._scaler.is_enabled() else norm)).all():
            raise NotFiniteError(localisation, classification, norm)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.schedule.step()
        if self.average:
            self.average.update(self.model)
        return localisation, classification

    def _backward(self, images: Tensor, pixels: Targets) -> Tensor:
        """Add up the gradient of a batch; returns this process's share of both parts of the loss, float32 [2]."""
        # Matched before the network runs: every part of the batch is divided by the matches of the whole of it.
        matched = match(pixels.boxes_xyxy, pixels.labels >= 0, self._anchors)  # [batch, anchors]
        matches = self._group.sum((matched >= 0).sum())
        parts = torch.zeros(2, device=self._group.device)
        count = self._accumulate
        slices = [slice(len(images) * k // count, len(images) * (k + 1) // count) for k in range(count)]
        for part in slices:
            with self._without_exchange(part is not slices[-1]):
                with self._autocast:
                    raw = self._network(images[part].float().contiguous(memory_format=torch.channels_last))
                loss = multibox_loss(
                    raw.cls_logits,
                    raw.bbox_regression,
                    self._anchors,
                    Targets(pixels.boxes_xyxy[part], pixels.labels[part]),
                    coding=self.model.config.box_coding,
                    matched=matched[part],
                    divisor=matches,
                )
                # Gradients are averaged over processes, and wanted as a sum.
                self._scaler.scale(loss.total * self._group.world).backward()
            parts += torch.stack((loss.localisation, loss.classification)).detach()
        return parts

    def _without_exchange(self, apart: bool) -> contextlib.AbstractContextManager[None]:
        """Processes exchange gradients once per step, with the last part of a batch."""
        return self._parallel.no_sync() if self._parallel and apart else contextlib.nullcontext()

    def state(self) -> dict[str, Any]:
        """What an updater needs, besides the weights of `evaluated_model`, to go on as this one would."""
        return {
            "weights": self.model.state_dict() if self.average else {},
            "ema_updates": self.average.updates if self.average else 0,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def load_state(self, state: dict[str, Any], evaluated_weights: dict[str, Tensor]) -> None:
        """Go on from what `state` returned and the `state_dict` of its `evaluated_model`."""
        self.model.load_state_dict(state["weights"] or evaluated_weights)
        if self.average:
            self.average.model.load_state_dict(evaluated_weights)
            self.average.updates = state["ema_updates"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if state["scaler"]:  # empty where the earlier run needed none
            self._scaler.load_state_dict(state["scaler"])


def check_parts(batches: EpochBatches, accumulate: int, model: SSD) -> None:
    """Whether every part of a batch that goes through the network has the images that it needs.

    Raises:
        UsageError: it has not.
    """
    part = batches.batch // batches.world // accumulate
    needed = 2 if batch_norms(model) else 1
    if part < needed:
        raise UsageError(
            f"a batch of {batches.batch} (of {batches.samples} images) in {batches.world} processes and "
            f"{accumulate} parts each leaves a part {part} images; {model.config.arch} needs at least "
            f"{needed}{', for its batch norm' if needed > 1 else ''}"
        )
