"""`Run`: the epochs of a training, from a model and its data to the best checkpoint."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from ssd_edge.checkpoint import Checkpoint, save_checkpoint
from ssd_edge.data.augment import EvalTransform
from ssd_edge.data.dataset import DetectionDataset
from ssd_edge.data.samples import Batch, CodesSamples, EpochBatches, ImageSamples, Samples, end_workers, make_loader
from ssd_edge.errors import DatasetError, SsdEdgeError, UsageError, first_line
from ssd_edge.evaluation.evaluate import detect, evaluate_detections
from ssd_edge.models.freeze import freeze_backbone
from ssd_edge.models.loss import Targets, multibox_loss
from ssd_edge.models.matcher import match
from ssd_edge.models.ssd import SSD
from ssd_edge.runtime.backends.torch import TorchDetector
from ssd_edge.training.config import TrainConfig
from ssd_edge.training.distributed import Group, say
from ssd_edge.training.ema import MovingAverage
from ssd_edge.training.history import History
from ssd_edge.training.initial_model import transform_of
from ssd_edge.training.precision import choose_type
from ssd_edge.training.recipes import Recipe
from ssd_edge.training.schedules import make_optimizer, make_schedule
from ssd_edge.training.signals import leave_dead_children_to_the_loader, stop_requests

SCORES = ("AP", "AP50", "AP75")  # of an evaluation that are kept


@dataclass
class EpochSums:
    """Sums over the steps of an epoch so far."""

    steps: int = 0
    localisation: float = 0.0
    classification: float = 0.0
    seconds: float = 0.0
    waited: float = 0.0

    def figures(self, batch: int) -> dict[str, float]:
        """Mean losses and times."""
        steps, seconds = max(1, self.steps), max(1e-9, self.seconds)
        return {
            "loss": (self.localisation + self.classification) / steps,
            "localisation": self.localisation / steps,
            "classification": self.classification / steps,
            "images_per_s": self.steps * batch / seconds,
            "waiting_for_data": self.waited / seconds,
        }


class Run:
    """One training: the loop and all that it carries along."""

    def __init__(
        self,
        config: TrainConfig,
        recipe: Recipe,
        group: Group,
        model: SSD,
        train_set: DetectionDataset | None,
        val_set: DetectionDataset,
    ):
        self.config, self.recipe, self.group, self.val_set = config, recipe, group, val_set
        self.device = group.device
        half = choose_type(model, self.device, config.amp)
        self.autocast = torch.autocast(self.device.type, half or torch.bfloat16, enabled=half is not None)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half == torch.float16)
        # Channels last is the layout that convolutions want on both kinds of device.
        model = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model: SSD = group.with_common_norms(model)
        if config.trainable_layers is not None:
            freeze_backbone(self.model, config.trainable_layers)
        self.average = MovingAverage(self.model, recipe.ema) if recipe.ema else None
        network = group.wrap(self.model)
        self.parallel = network if isinstance(network, DistributedDataParallel) else None
        self.network: nn.Module = torch.compile(network) if config.compile else network  # type: ignore[assignment]
        height, width = model.config.size_hw
        self.scale = torch.tensor([width, height, width, height], device=self.device)
        self.anchors = model.default_boxes_xyxy * self.scale  # [anchors, 4] pixels

        self.samples = _samples(config, recipe, train_set, model)
        self.batches = EpochBatches(
            len(self.samples), recipe.batch, recipe.epochs, config.seed, rank=group.rank, world=group.world
        )
        _check_parts(self.batches, config, model)
        self.steps_per_epoch = self.batches.steps_per_epoch
        self.total_steps = recipe.epochs * self.steps_per_epoch
        lr = recipe.lr * self.batches.batch / recipe.lr_batch if config.lr is None else config.lr
        self.optimizer = make_optimizer(self.model, recipe, lr)
        self.schedule = make_schedule(self.optimizer, recipe, lr, self.total_steps, self.steps_per_epoch)
        self.card = replace(
            model.make_card(val_set.class_names, val_set.category_ids),
            training_data=train_set.fingerprint() if train_set else f"codes seed {config.seed}",
        )
        self.step = 0
        self.sums = EpochSums()
        self.best_ap = -1.0

    def go_on_from(self, earlier: Checkpoint) -> None:
        """Take over the state of an earlier run.

        Raises:
            UsageError: its data were not these.
        """
        state = earlier.training
        if earlier.card != self.card or state["val_data"] != self.val_set.fingerprint():
            raise UsageError(
                "the images or classes to train or evaluate on are not those of the run to resume; bring them back, "
                "or start anew with another -o (and --weights to keep what was learnt)"
            )
        self.model.load_state_dict(state["weights"] or earlier.state_dict)
        if self.average:
            self.average.model.load_state_dict(earlier.state_dict)
            self.average.updates = state["ema_updates"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if state["scaler"]:  # empty where the earlier run needed none
            self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"])  # for a backbone that draws, such as one with dropout
        self.step = state["step"]
        self.sums = EpochSums(**json.loads(state["epoch"]))
        self.best_ap = state["best_ap"]

    def run(self) -> Path:
        """The loop over epochs; returns the path of the best checkpoint."""
        self.batches.first_step = self.step
        loader = make_loader(self.samples, self.batches, workers=_workers(self.config.workers), device=self.device)
        folder = self.config.output if self.group.is_first else None
        with stop_requests() as stop, History(folder, tensorboard=self.config.tensorboard, step=self.step) as history:
            batches = iter(loader)
            leave_dead_children_to_the_loader()
            try:
                self._loop(batches, stop, history)
            finally:
                end_workers(batches)
        return self._best

    def _loop(self, batches: Iterator[Batch | DatasetError], stop: list[int], history: History) -> None:
        if self._epoch_is_over():  # stopped while it was being evaluated
            self._end_epoch(history)
        while self.step < self.total_steps:
            problem = self._train_epoch(batches, stop, history)
            if self._epoch_is_over():
                self._end_epoch(history)
                if self.step == self.total_steps or not self.group.any(bool(stop)):
                    continue
            else:
                self._save_last()
            say(f"stopped at step {self.step} of {self.total_steps}; go on with --resume")
            raise problem or KeyboardInterrupt

    @property
    def _best(self) -> Path:
        return self.config.output / "best.pt"

    @property
    def _epoch(self) -> int:
        """Number of the epoch that the last step belongs to, from 1."""
        return (self.step - 1) // self.steps_per_epoch + 1

    def _epoch_is_over(self) -> bool:
        """Whether an epoch's steps are done, but not what comes after them."""
        return self.step % self.steps_per_epoch == 0 and self.sums.steps > 0

    def _train_epoch(
        self, batches: Iterator[Batch | DatasetError], stop: list[int], history: History
    ) -> SsdEdgeError | None:
        """Train to the end of the epoch, or to a request to stop, or to a problem with the data, which is returned.

        All processes leave at the same step: one that left alone would keep the others waiting for its share.
        """
        self.model.train()
        done = self.step % self.steps_per_epoch
        title = f"epoch {self.step // self.steps_per_epoch + 1}/{self.recipe.epochs}"
        total = self.steps_per_epoch
        hidden = None if self.group.is_first else True  # None: shown on a terminal
        with tqdm(total=total, initial=done, desc=title, unit="step", leave=False, disable=hidden) as bar:
            for _ in range(total - done):
                begin = time.perf_counter()
                batch = SsdEdgeError("stopped") if stop else _next(batches)
                fetched = time.perf_counter()
                problem = batch if isinstance(batch, SsdEdgeError) else None
                if self.group.any(problem is not None):
                    elsewhere = SsdEdgeError("another process of this training ended early; its message says why")
                    return None if stop else problem or elsewhere
                images, boxes, labels = batch  # type: ignore[misc]  # no problem, so a batch
                localisation, classification = self._train_step(images, Targets.pad(boxes, labels))
                rate = float(self.schedule.get_last_lr()[0])
                scalars = {"loss/localisation": localisation, "loss/classification": classification, "lr": rate}
                history.scalars(self.step, scalars)
                self.step += 1
                sums = self.sums
                sums.steps += 1
                sums.localisation += localisation
                sums.classification += classification
                sums.waited += fetched - begin
                sums.seconds += time.perf_counter() - begin
                bar.update()
                bar.set_postfix(loss=f"{(sums.localisation + sums.classification) / sums.steps:.3f}")
        return None

    def _end_epoch(self, history: History) -> None:
        """Evaluate, keep the best, report; whatever the evaluation meets, the epoch's steps are not lost."""
        try:
            figures = {"epoch": self._epoch, "step": self.step, **self.sums.figures(self.batches.batch)}
            if self._epoch % self.config.eval_every == 0 or self.step == self.total_steps:
                figures |= self._evaluate()
                if figures["AP"] > self.best_ap:
                    self._save(self._best, {f"val_{name}": figures[name] for name in SCORES})
                    self.best_ap = figures["AP"]
            history.epoch(self.step, figures)
            scores = f"val AP {figures['AP']:.3f}, AP50 {figures['AP50']:.3f}, " if "AP" in figures else ""
            say(
                f"epoch {self._epoch}/{self.recipe.epochs}: loss {figures['loss']:.3f}, {scores}"
                f"{figures['images_per_s']:.1f} images/s, {figures['waiting_for_data']:.0%} of the time waits for data"
            )
            self.sums = EpochSums()
        finally:
            self._save_last()

    def _train_step(self, images: Tensor, targets: Targets) -> tuple[float, float]:
        """One step of the optimiser; returns both parts of the loss, of all processes together.

        Raises:
            SsdEdgeError: the loss or its gradient is not finite.
        """
        images = images.to(self.device, non_blocking=True)
        targets = targets.to(self.device)
        pixels = Targets(targets.boxes_xyxy * self.scale, targets.labels)
        # Matched before the network runs: every part of the batch is divided by the matches of the whole of it.
        matched = match(pixels.boxes_xyxy, pixels.labels >= 0, self.anchors)  # [batch, anchors]
        matches = self.group.sum((matched >= 0).sum())
        self.optimizer.zero_grad(set_to_none=True)
        parts = torch.zeros(2, device=self.device)
        count = self.config.accumulate
        slices = [slice(len(images) * k // count, len(images) * (k + 1) // count) for k in range(count)]
        for part in slices:
            with self._without_exchange(part is not slices[-1]):
                with self.autocast:
                    raw = self.network(images[part].float().contiguous(memory_format=torch.channels_last))
                loss = multibox_loss(
                    raw.cls_logits,
                    raw.bbox_regression,
                    self.anchors,
                    Targets(pixels.boxes_xyxy[part], pixels.labels[part]),
                    matched=matched[part],
                    divisor=matches,
                )
                # Gradients are averaged over processes, and wanted as a sum.
                self.scaler.scale(loss.total * self.group.world).backward()
            parts += torch.stack((loss.localisation, loss.classification)).detach()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip or torch.inf)
        localisation, classification, norm = torch.stack((*self.group.sum(parts), norm)).tolist()
        # float16's gradients may overflow: the scaler leaves that step out, and scales less.
        if not np.isfinite((localisation, classification, 0 if self.scaler.is_enabled() else norm)).all():
            raise self._diverged(localisation, classification, norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        if self.average:
            self.average.update(self.model)
        return localisation, classification

    def _without_exchange(self, apart: bool) -> contextlib.AbstractContextManager[None]:
        """Processes exchange gradients once a step, with the last part of a batch."""
        return self.parallel.no_sync() if self.parallel and apart else contextlib.nullcontext()

    def _diverged(self, localisation: float, classification: float, norm: float) -> SsdEdgeError:
        names = ", ".join(map(self.samples.name, self.batches.keys(self.step)))
        return SsdEdgeError(
            f"the loss at step {self.step} is {localisation} (localisation) + {classification} (classification), its "
            f"gradient's norm {norm}: training diverged, on the batch of {names}. Look at these images and boxes; else "
            "start anew with a lower --lr and another -o (--weights with the best.pt of this run keeps what was learnt)"
        )

    @property
    def _used(self) -> SSD:
        """The model that is evaluated and saved."""
        return self.average.model if self.average else self.model  # type: ignore[return-value]

    def _evaluate(self) -> dict[str, float]:
        """AP on the evaluation images, of which each process looks at its share."""
        rank, world = self.group.rank, self.group.world
        self.group.share_buffers(self._used)  # statistics of batch norm differ a little; the first one's are saved
        share = replace(self.val_set, records=self.val_set.records[rank::world])
        found = self.group.gather(detect(TorchDetector(self._used, self.card), share, progress=self.group.is_first))
        figures = {}
        if self.group.is_first:
            detections = [found[i % world][i // world] for i in range(len(self.val_set))]
            metrics = evaluate_detections(detections, self.val_set, self.card.class_names).metrics
            figures = {name: metrics[name] for name in SCORES}
        return dict(self.group.broadcast(figures))

    def _save(self, path: Path, metrics: dict[str, float]) -> None:
        """A checkpoint for use: no training state."""
        if self.group.is_first:
            save_checkpoint(path, Checkpoint(replace(self.card, metrics=metrics), self._used.state_dict()))

    def _save_last(self) -> None:
        """A checkpoint to go on from."""
        if not self.group.is_first:
            return
        state = {
            "settings": json.dumps(self.config.settings()),
            "recipe": json.dumps(asdict(self.recipe)),
            "val_data": self.val_set.fingerprint(),
            "weights": self.model.state_dict() if self.average else {},
            "ema_updates": self.average.updates if self.average else 0,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": torch.get_rng_state(),
            "step": self.step,
            "epoch": json.dumps(asdict(self.sums)),
            "best_ap": self.best_ap,
        }
        save_checkpoint(self.config.output / "last.pt", Checkpoint(self.card, self._used.state_dict(), state))


def _next(batches: Iterator[Batch | DatasetError]) -> Batch | SsdEdgeError:
    """The next batch, or what is wrong with it: an image, or the process that loads it."""
    try:
        return next(batches)
    except (RuntimeError, ConnectionError, EOFError) as error:
        # A process that dies while it hands over a batch shows as a broken connection.
        if isinstance(error, RuntimeError) and "exited unexpectedly" not in str(error):
            raise
        return SsdEdgeError(
            f"a data-loading process is gone ({first_line(error)}): most often the system was out of memory "
            "(or of /dev/shm in a container). Go on with --resume and fewer --workers, or --workers 0"
        )


def _samples(config: TrainConfig, recipe: Recipe, train_set: DetectionDataset | None, model: SSD) -> Samples:
    if train_set is None:
        return CodesSamples(config.scenes, model.config.size_hw, config.seed)
    transform = transform_of(recipe, model) if config.augment else EvalTransform(model.config.size_hw)
    return ImageSamples(train_set, transform, config.seed)


def _check_parts(batches: EpochBatches, config: TrainConfig, model: SSD) -> None:
    """Whether every part of a batch that goes through the network has the images that it needs.

    Raises:
        UsageError: it has not.
    """
    part = batches.batch // batches.world // config.accumulate
    needed = 2 if has_batch_norm(model) else 1
    if part < needed:
        raise UsageError(
            f"a batch of {batches.batch} (of {batches.samples} images) in {batches.world} processes and "
            f"{config.accumulate} parts each leaves a part {part} images; {config.arch} needs at least "
            f"{needed}{', for its batch norm' if needed > 1 else ''}"
        )


def has_batch_norm(model: nn.Module) -> bool:
    return any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in model.modules())


def _workers(asked: int | None) -> int:
    """Processes that load data: one on up to four cores, else a quarter of this process's share of the cores."""
    if asked is not None:
        return asked
    cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, cores // 4)
