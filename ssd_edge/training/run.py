"""Train a detector: one dataset (or the endless `codes` scenes) in, `best.pt` and `last.pt` out."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from ssd_edge.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from ssd_edge.data.augment import EvalTransform, TrainTransform
from ssd_edge.data.dataset import DetectionDataset
from ssd_edge.data.samples import Batch, CodesSamples, EpochBatches, ImageSamples, Samples, make_loader
from ssd_edge.errors import DatasetError, MissingDependencyError, ModelFileError, SsdEdgeError, UsageError
from ssd_edge.evaluation.evaluate import detect, evaluate_detections, scored_classes
from ssd_edge.files import atomic_path
from ssd_edge.models.create import COCO, IMAGENET, create_model, load_fitting
from ssd_edge.models.default_boxes import DefaultBoxConfig
from ssd_edge.models.freeze import freeze_backbone
from ssd_edge.models.loss import Targets, multibox_loss
from ssd_edge.models.matcher import match
from ssd_edge.models.ssd import SSD
from ssd_edge.runtime.backend_torch import TorchDetector
from ssd_edge.training.boxes import BoxComparison, coverage_of, fit_to
from ssd_edge.training.config import FITTED_BOXES, TrainConfig
from ssd_edge.training.distributed import Group, process_group, say
from ssd_edge.training.ema import MovingAverage
from ssd_edge.training.recipes import Recipe, default_preset, recipe_for
from ssd_edge.training.schedules import make_optimizer, make_schedule
from ssd_edge.training.splits import read_data

# What last.pt holds besides the model.
TRAINING_STATE = frozenset(
    ("settings", "val_data", "weights", "ema_updates", "optimizer", "schedule", "scaler", "step", "best_ap")
)


def train(config: TrainConfig) -> Path:
    """Train and return the path of `best.pt`, the checkpoint with the highest AP on the evaluation images.

    Ctrl-C (and SIGTERM) finish the step under way and save `last.pt`; with `resume` the run goes on from that step,
    on the CPU bit-equal to a run that was never stopped. Under `torchrun` all its processes train together.

    Raises:
        DatasetError: nothing to train on; a split that does not exist; findings of lint with `strict`.
        UsageError: settings that differ from those of the run to resume, or `last.pt` is there without `resume`.
        SinkError: `output` cannot be written to.
        SsdEdgeError: the loss is no longer finite, or a data-loading process died.
        KeyboardInterrupt: after an early end, once `last.pt` is saved.
    """
    last = config.output / "last.pt"
    if last.exists() and not config.resume:
        raise UsageError(f"{last} is there already: go on with --resume, or choose another folder with -o")
    earlier = _load_earlier(last, config) if config.resume else None
    with process_group(config.device) as group:
        if group.is_first:
            with atomic_path(config.output / "config.json") as part:  # shows now, not after an epoch, if it is writable
                part.write_text(json.dumps(asdict(config), default=str, indent=2) + "\n", encoding="utf-8")
            data = read_data(config)
        group.barrier()  # the first process writes what the others read
        if not group.is_first:
            data = read_data(config)
        return _train_on(*data, config, group, earlier)


def train_on(train_set: DetectionDataset | None, val_set: DetectionDataset, config: TrainConfig) -> Path:
    """As `train`, on datasets in memory; None trains on `codes` scenes. `config.data` and splits are not read."""
    with process_group(config.device) as group:
        return _train_on(train_set, val_set, config, group, None)


def _train_on(
    train_set: DetectionDataset | None,
    val_set: DetectionDataset,
    config: TrainConfig,
    group: Group,
    earlier: Checkpoint | None,
) -> Path:
    scored_classes(val_set, val_set.class_names, None)  # before the first epoch, not after it
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    recipe = choose_recipe(config, train_set)
    model = _start_model(config, recipe, train_set, val_set, fresh=earlier is None)
    return Run(config, recipe, group, model, train_set, val_set, earlier).run()


def choose_recipe(config: TrainConfig, train_set: DetectionDataset | None) -> Recipe:
    """The recipe for so many images, with what the configuration says otherwise.

    Raises:
        UsageError: as `recipe_for`.
    """
    preset = config.preset or default_preset(None if train_set is None else len(train_set))
    batch_norm = "vgg" not in config.arch
    fine_tune = config.weights is not None and config.weights != IMAGENET
    return config.changes(recipe_for(preset, config.arch, batch_norm=batch_norm, fine_tune=fine_tune))


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
        earlier: Checkpoint | None,
    ):
        self.config, self.recipe, self.group, self.val_set = config, recipe, group, val_set
        self.device = group.device
        amp = _amp_helps(model, self.device) if config.amp is None else config.amp
        # A GPU without bfloat16 has float16, whose gradients need scaling.
        half = torch.float16 if amp and self.device.type == "cuda" and not _has_bfloat16() else torch.bfloat16
        self.autocast = torch.autocast(self.device.type, half, enabled=amp)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=amp and half == torch.float16)
        # Channels last is the layout that convolutions want on both kinds of device.
        self.model = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
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
        lr = recipe.lr * self.batches.batch / recipe.lr_batch
        self.optimizer = make_optimizer(model, recipe, lr)
        self.schedule = make_schedule(self.optimizer, recipe, lr, self.total_steps, self.steps_per_epoch)
        self.card = replace(
            model.make_card(val_set.class_names, val_set.category_ids),
            training_data=train_set.fingerprint() if train_set else f"codes seed {config.seed}",
        )
        self.step = 0
        self.best_ap = -1.0
        if earlier:
            self._go_on_from(earlier)
        self.batches.first_step = self.step
        self.loader = make_loader(self.samples, self.batches, workers=_workers(config.workers))
        self.board = _tensorboard(config.output) if config.tensorboard and group.is_first else None

    def _go_on_from(self, earlier: Checkpoint) -> None:
        """Take over the state of an earlier run.

        Raises:
            UsageError: its data were not these.
        """
        if earlier.card != self.card or earlier.training["val_data"] != self.val_set.fingerprint():
            raise UsageError(
                "the images or classes to train or evaluate on are not those of the run to resume; bring them back, "
                "or start anew with another -o (and --weights to keep what was learnt)"
            )
        self.model.load_state_dict(earlier.training["weights"] or earlier.state_dict)
        if self.average:
            self.average.model.load_state_dict(earlier.state_dict)
            self.average.updates = earlier.training["ema_updates"]
        self.optimizer.load_state_dict(earlier.training["optimizer"])
        self.schedule.load_state_dict(earlier.training["schedule"])
        self.scaler.load_state_dict(earlier.training["scaler"])
        self.step = earlier.training["step"]
        self.best_ap = earlier.training["best_ap"]

    def run(self) -> Path:
        """The loop over epochs; returns the path of the best checkpoint."""
        best, last = self.config.output / "best.pt", self.config.output / "last.pt"
        with _stop_requests() as stop:
            batches = iter(self.loader)
            if threading.current_thread() is threading.main_thread():
                # torch's handler raises wherever the main thread is, also in the middle of a step; without it a worker
                # that died shows when a batch is asked for, and what is saved then is whole.
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            while self.step < self.total_steps and not self.group.any(bool(stop)):
                epoch = self.step // self.steps_per_epoch
                try:
                    figures = self._epoch(epoch, batches, stop)
                except (DatasetError, _WorkerDiedError):  # the steps before it are kept
                    self._save_last(last)
                    raise
                if self.step < (epoch + 1) * self.steps_per_epoch:
                    break  # stopped within the epoch, or before its first step
                try:
                    if self._is_evaluated(epoch):
                        figures |= self._evaluate()
                        if figures["AP"] > self.best_ap:
                            self.best_ap = figures["AP"]
                            self._save(best, {f"val_{name}": figures[name] for name in ("AP", "AP50", "AP75")})
                finally:  # whatever the evaluation meets, the epoch is not lost
                    self._save_last(last)
                self._report(epoch, figures)
            if self.step < self.total_steps:
                self._save_last(last)
                say(f"stopped at step {self.step} of {self.total_steps}; go on with --resume")
                raise KeyboardInterrupt
        return best

    def _is_evaluated(self, epoch: int) -> bool:
        return (epoch + 1) % self.config.eval_every == 0 or epoch + 1 == self.recipe.epochs

    def _epoch(self, epoch: int, batches: Iterator[Batch | DatasetError], stop: list[int]) -> dict[str, float]:
        """Train to the end of the epoch, or to a request to stop; returns mean losses and times."""
        self.model.train()
        first = self.step % self.steps_per_epoch
        losses = np.zeros(2)
        steps, waited = 0, 0.0
        begin = time.perf_counter()
        title = f"epoch {epoch + 1}/{self.recipe.epochs}"
        hidden = None if self.group.is_first else True  # None: shown on a terminal
        total = self.steps_per_epoch
        with tqdm(total=total, initial=first, desc=title, unit="step", leave=False, disable=hidden) as bar:
            while first + steps < self.steps_per_epoch and not self.group.any(bool(stop)):
                asked = time.perf_counter()
                images, boxes, labels = _next(batches)
                waited += time.perf_counter() - asked
                parts = self._train_step(images, Targets.pad(boxes, labels))
                losses += parts
                if self.board:
                    rate = float(self.schedule.get_last_lr()[0])
                    self._write_to_board({"loss/localisation": parts[0], "loss/classification": parts[1], "lr": rate})
                self.step += 1
                steps += 1
                bar.update()
                bar.set_postfix(loss=f"{losses.sum() / steps:.3f}")
        seconds = time.perf_counter() - begin
        localisation, classification = (losses / max(1, steps)).tolist()
        return {
            "loss": localisation + classification,
            "localisation": localisation,
            "classification": classification,
            "images_per_s": steps * self.batches.batch / seconds,
            "waiting_for_data": waited / seconds,
        }

    def _train_step(self, images: Tensor, targets: Targets) -> tuple[float, float]:
        """One step of the optimiser; returns both parts of the loss, of all processes together.

        Raises:
            SsdEdgeError: the loss is not finite.
        """
        images = images.to(self.device, non_blocking=True)
        targets = targets.to(self.device)
        pixels = Targets(targets.boxes_xyxy * self.scale, targets.labels)
        # Matched before the network runs: every part of the batch is divided by the matches of the whole of it.
        matched = match(pixels.boxes_xyxy, pixels.labels >= 0, self.anchors)  # [batch, anchors]
        matches = self.group.sum((matched >= 0).sum())
        self.optimizer.zero_grad(set_to_none=True)
        parts = torch.zeros(2, device=self.device)
        chunks = min(self.config.accumulate, len(images))
        slices = [slice(len(images) * k // chunks, len(images) * (k + 1) // chunks) for k in range(chunks)]
        for chunk in slices:
            with self._without_exchange(chunk is not slices[-1]):
                with self.autocast:
                    raw = self.network(images[chunk].float().contiguous(memory_format=torch.channels_last))
                loss = multibox_loss(
                    raw.cls_logits,
                    raw.bbox_regression,
                    self.anchors,
                    Targets(pixels.boxes_xyxy[chunk], pixels.labels[chunk]),
                    matched=matched[chunk],
                    divisor=matches,
                )
                # Gradients are averaged over processes, and wanted as a sum.
                self.scaler.scale(loss.total * self.group.world).backward()
            parts += torch.stack((loss.localisation, loss.classification)).detach()
        localisation, classification = self.group.sum(parts).tolist()
        if not np.isfinite((localisation, classification)).all():
            raise self._diverged(localisation, classification)
        self.scaler.unscale_(self.optimizer)
        if self.recipe.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        if self.average:
            self.average.update(self.model)
        return localisation, classification

    def _without_exchange(self, apart: bool) -> contextlib.AbstractContextManager[None]:
        """Processes exchange gradients once a step, with the last part of a batch."""
        return self.parallel.no_sync() if self.parallel and apart else contextlib.nullcontext()

    def _diverged(self, localisation: float, classification: float) -> SsdEdgeError:
        names = ", ".join(map(self.samples.name, self.batches.keys(self.step)))
        return SsdEdgeError(
            f"the loss at step {self.step} is {localisation} (localisation) + {classification} (classification): "
            f"training diverged, on the batch of {names}. Look at these images and boxes; else start anew with a lower "
            "--lr and another -o (--weights with the best.pt of this run keeps what was learnt)"
        )

    @property
    def _used(self) -> SSD:
        """The model that is evaluated and saved."""
        return self.average.model if self.average else self.model  # type: ignore[return-value]

    def _evaluate(self) -> dict[str, float]:
        """AP on the evaluation images, of which each process looks at its share."""
        rank, world = self.group.rank, self.group.world
        share = replace(self.val_set, records=self.val_set.records[rank::world])
        found = self.group.gather(detect(TorchDetector(self._used, self.card), share, progress=self.group.is_first))
        figures = {}
        if self.group.is_first:
            detections = [found[i % world][i // world] for i in range(len(self.val_set))]
            metrics = evaluate_detections(detections, self.val_set, self.card.class_names).metrics
            figures = {name: metrics[name] for name in ("AP", "AP50", "AP75")}
        return dict(self.group.broadcast(figures))

    def _save(self, path: Path, metrics: dict[str, float]) -> None:
        """A checkpoint for use: no training state."""
        if self.group.is_first:
            save_checkpoint(path, Checkpoint(replace(self.card, metrics=metrics), self._used.state_dict()))

    def _save_last(self, path: Path) -> None:
        """A checkpoint to go on from."""
        if not self.group.is_first:
            return
        state = {
            "settings": json.dumps(self.config.settings()),
            "val_data": self.val_set.fingerprint(),
            "weights": self.model.state_dict() if self.average else {},
            "ema_updates": self.average.updates if self.average else 0,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "best_ap": self.best_ap,
        }
        save_checkpoint(path, Checkpoint(self.card, self._used.state_dict(), state))

    def _report(self, epoch: int, figures: dict[str, float]) -> None:
        if not self.group.is_first:
            return
        with open(self.config.output / "history.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"epoch": epoch + 1, "step": self.step, **figures}) + "\n")
        self._write_to_board({f"val/{name}": figures[name] for name in ("AP", "AP50", "AP75") if name in figures})
        scores = f"val AP {figures['AP']:.3f}, AP50 {figures['AP50']:.3f}, " if "AP" in figures else ""
        say(
            f"epoch {epoch + 1}/{self.recipe.epochs}: loss {figures['loss']:.3f}, {scores}"
            f"{figures['images_per_s']:.1f} images/s, {figures['waiting_for_data']:.0%} of the time waiting for data"
        )

    def _write_to_board(self, scalars: dict[str, float]) -> None:
        if self.board:
            for name, value in scalars.items():
                self.board.add_scalar(name, value, self.step)


class _WorkerDiedError(SsdEdgeError):
    """A data-loading process is gone."""


def _next(batches: Iterator[Batch | DatasetError]) -> Batch:
    """The next batch.

    Raises:
        DatasetError: an image that cannot be read or prepared; it travels as a value, since raised in the worker it
            would arrive as the text of a traceback.
        _WorkerDiedError: the process that loads data was killed.
    """
    try:
        batch = next(batches)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise _WorkerDiedError(
            f"a data-loading process is gone ({str(error).splitlines()[0]}): most often the system was out of memory "
            "(or of /dev/shm in a container). Go on with --resume and fewer --workers, or --workers 0"
        ) from error
    if isinstance(batch, DatasetError):
        raise batch
    return batch


def _load_earlier(last: Path, config: TrainConfig) -> Checkpoint:
    """The checkpoint to resume from.

    Raises:
        ModelFileError: it is not there, or holds no training state.
        UsageError: it was trained with other settings.
    """
    earlier = load_checkpoint(last)
    if not earlier.training.keys() >= TRAINING_STATE:
        raise ModelFileError(f"{last} holds no training state, so nothing to resume; train without --resume")
    settings = json.loads(earlier.training["settings"])
    wanted = json.loads(json.dumps(config.settings()))
    changed = [
        f"{name} {settings.get(name)!r} -> {value!r}" for name, value in wanted.items() if settings.get(name) != value
    ]
    if changed:
        raise UsageError(f"{last} was trained with other settings: {'; '.join(changed)}; resume with the same ones")
    return earlier


def _start_model(
    config: TrainConfig,
    recipe: Recipe,
    train_set: DetectionDataset | None,
    val_set: DetectionDataset,
    *,
    fresh: bool,
) -> SSD:
    """The model to train; says how well its default boxes cover the data. Without `fresh`, weights will come later."""
    classes = len(val_set.class_names)
    published = config.weights if config.weights in (COCO, IMAGENET) else None
    start = load_checkpoint(Path(config.weights)) if config.weights and not published else None
    boxes = DefaultBoxConfig.from_dict(start.card.default_boxes) if start and start.card.default_boxes else None
    model = create_model(config.arch, classes, default_boxes=boxes)
    # The scenes of `codes` are endless; those to evaluate on stand for them.
    dataset = train_set or val_set
    if _is_fitted(config, recipe):
        augmented = train_set is not None and config.augment
        comparison = fit_to(dataset, _transform(recipe, model) if augmented else None, model)
        boxes = comparison.config
    else:
        comparison = BoxComparison(coverage_of(dataset, model.config.default_boxes, model))
    say(comparison.table())
    torch.manual_seed(config.seed)  # the same weights, whatever has been drawn so far
    model = create_model(config.arch, classes, default_boxes=boxes, weights=published if fresh else None)
    if start and fresh:
        load_fitting(model, start.state_dict, arch=start.card.arch)
    if config.trainable_layers is not None:
        freeze_backbone(model, config.trainable_layers)
    return model


def _is_fitted(config: TrainConfig, recipe: Recipe) -> bool:
    """Whether default boxes are fitted: where asked for, else where the recipe does and no trained head is kept."""
    if config.default_boxes is not None:
        return config.default_boxes == FITTED_BOXES
    return recipe.fit_boxes and config.weights in (None, IMAGENET)


def _transform(recipe: Recipe, model: SSD) -> TrainTransform:
    return TrainTransform(
        model.config.size_hw,
        model.config.mean,
        zoom_out=recipe.zoom_out,
        iou_crop=recipe.iou_crop,
        photometric=recipe.photometric,
        hflip=recipe.hflip,
    )


def _samples(config: TrainConfig, recipe: Recipe, train_set: DetectionDataset | None, model: SSD) -> Samples:
    if train_set is None:
        return CodesSamples(config.scenes, model.config.size_hw, config.seed)
    transform = _transform(recipe, model) if config.augment else EvalTransform(model.config.size_hw)
    return ImageSamples(train_set, transform, config.seed)


def _check_parts(batches: EpochBatches, config: TrainConfig, model: SSD) -> None:
    """Whether every part of a batch that goes through the network has the images that it needs.

    Raises:
        UsageError: it has not.
    """
    part = batches.batch // batches.world // config.accumulate
    needed = 2 if _has_batch_norm(model) else 1
    if part < needed:
        raise UsageError(
            f"--batch {batches.batch} in {batches.world} processes and {config.accumulate} parts each leaves a part "
            f"{part} images; {config.arch} needs at least {needed}{', for its batch norm' if needed > 1 else ''}"
        )


def _has_batch_norm(model: nn.Module) -> bool:
    return any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())


def _workers(asked: int | None) -> int:
    return max(1, (os.cpu_count() or 1) // 4) if asked is None else asked


def _tensorboard(output: Path) -> Any:
    """Writer of TensorBoard's files.

    Raises:
        MissingDependencyError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingDependencyError("--tensorboard needs the package tensorboard", extra="tensorboard") from error
    return SummaryWriter(str(output))


def _has_bfloat16() -> bool:
    return torch.cuda.is_bf16_supported(including_emulation=False)


def _amp_helps(model: nn.Module, device: torch.device) -> bool:
    """Whether half precision makes training faster: a GPU's does; a CPU's where it computes in bfloat16, and no
    convolution is depthwise.

    Measured on an AVX-512 BF16 processor: the backward pass of a strided or 5×5 depthwise convolution takes three to
    seven times as long in bfloat16 as in float32, more than the other layers gain.
    """
    if device.type == "cuda":
        return True
    if any(isinstance(layer, nn.Conv2d) and layer.groups > 1 for layer in model.modules()):
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)  # x86 names, and ARM's


@contextlib.contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """A list that receives the signal at Ctrl-C or SIGTERM; a second one interrupts at once."""
    requests: list[int] = []

    def on_signal(number: int, _: Any) -> None:
        if requests:
            raise KeyboardInterrupt
        requests.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield requests  # Python delivers signals to the main thread only
        return
    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
