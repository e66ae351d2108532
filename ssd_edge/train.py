"""Train a detector: one dataset (or the endless `codes` scenes) in, `best.pt` and `last.pt` out."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import Dataset
from tqdm import tqdm

from ssd_edge.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from ssd_edge.data.augment import Sample, TrainTransform
from ssd_edge.data.coco_json import coco_json
from ssd_edge.data.codes import write_coco
from ssd_edge.data.dataset import DetectionDataset
from ssd_edge.data.lint import lint
from ssd_edge.data.readers import find_split, list_splits, read_dataset
from ssd_edge.data.samples import Batch, CodesSamples, EpochBatches, ImageSamples, make_loader
from ssd_edge.errors import DatasetError, ModelFileError, SsdEdgeError, UsageError
from ssd_edge.evaluate import evaluate, scored_classes
from ssd_edge.files import atomic_path
from ssd_edge.models.create import ARCHITECTURES, COCO, create_model, load_fitting
from ssd_edge.models.loss import Targets, multibox_loss
from ssd_edge.models.ssd import SSD
from ssd_edge.runtime.backend_torch import TorchDetector

CODES = "codes"  # the word that stands for the synthetic scenes where a dataset is asked for
VAL_SCENES = 200  # scenes on which a training on `codes` is evaluated after every epoch
VAL_SEED_OFFSET = 1_000_003  # away from the seeds people choose, so that no scene is trained and evaluated on
HELD_OUT = 0.1  # share of the images kept for evaluation where a dataset has no such split

# Peak of the one-cycle schedule with AdamW. VGG-16 has no batch norm and diverges at SSDlite's rate.
PEAK_LR = {"ssd300_vgg16": 2e-4, "ssdlite320_mobilenet_v3_large": 2e-3}
FINE_TUNE_FACTOR = 0.25  # of the peak when starting from trained weights
TRAINING_STATE = {"recipe", "val_data", "optimizer", "schedule", "step", "best_ap"}  # what last.pt holds besides
GRADIENT_CLIP = 10.0  # norm; only outliers of the first steps reach it


@dataclass(frozen=True)
class TrainConfig:
    """What to train, on what, and how.

    Attributes:
        data: a dataset in any format that `read_dataset` knows, or `codes`.
        output: folder for `best.pt`, `last.pt`, `history.jsonl`.
        arch: as `create_model` takes it.
        epochs: passes over the data.
        batch: images a step.
        lr: peak learning rate; None chooses by architecture.
        weight_decay: AdamW's, on convolution weights only.
        seed: same seed, same run (bit-equal on the CPU with the same number of threads).
        split, val_split: names such as `train` or `train+val`; None: train, and val or else a tenth held out.
        scenes: with `codes`, scenes an epoch.
        hflip: probability of mirroring an image.
        zoom_out: probability of zooming out; shows objects smaller, for data with few small ones.
        weights: what to start from: None (random), `coco` (as `create_model` takes it) or the path of a checkpoint
            of the same architecture; class heads for other classes start anew.
        workers: processes that load data; None: one on up to four cores, else a quarter of the cores.
        threads: PyTorch's threads; None leaves its choice.
        device: `cpu`, `cuda`, `cuda:1`; None: CUDA where there is one.
        amp: mixed precision (bfloat16); None: where it makes training faster.
        strict: a finding of the lint pass is an error.
        resume: go on from `output/last.pt`.
    """

    data: str
    output: Path
    arch: str = "ssdlite320_mobilenet_v3_large"
    epochs: int = 60
    batch: int = 16
    lr: float | None = None
    weight_decay: float = 0.02
    seed: int = 0
    split: str | None = None
    val_split: str | None = None
    scenes: int = 4000
    hflip: float = 0.5
    zoom_out: float = 0.0
    weights: str | None = None
    workers: int | None = None
    threads: int | None = None
    device: str | None = None
    amp: bool | None = None
    strict: bool = False
    resume: bool = False

    def __post_init__(self) -> None:
        if self.arch not in ARCHITECTURES:
            raise UsageError(f"unknown architecture {self.arch!r}; there are {', '.join(sorted(ARCHITECTURES))}")
        for name in ("epochs", "batch", "scenes"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.lr is not None and not self.lr > 0:
            raise UsageError(f"lr is {self.lr}; expected a positive number")

    def recipe(self) -> dict[str, Any]:
        """What a resumed run must have in common with the run it continues, besides the data themselves."""
        values = asdict(self)
        for free in ("output", "data", "split", "val_split", "workers", "threads", "device", "strict", "resume"):
            del values[free]
        return values


def train(config: TrainConfig) -> Path:
    """Train and return the path of `best.pt`, the checkpoint with the highest AP on the evaluation images.

    Ctrl-C (and SIGTERM) finish the step under way and save `last.pt`; with `resume` the run goes on from that step,
    on the CPU bit-equal to a run that was never stopped.

    Raises:
        DatasetError: nothing to train on; a split that does not exist; findings of lint with `strict`.
        UsageError: settings that differ from those of the run to resume, or `last.pt` is there without `resume`.
        SinkError: `output` cannot be written to.
        SsdEdgeError: the loss is no longer finite.
        KeyboardInterrupt: after an early end, once `last.pt` is saved.
    """
    last = config.output / "last.pt"
    if last.exists() and not config.resume:
        raise UsageError(f"{last} is there already: go on with --resume, or choose another folder with -o")
    earlier = _load_earlier(last, config) if config.resume else None
    with atomic_path(config.output / "config.json") as part:  # shows now, not after an epoch, if it is writable
        part.write_text(json.dumps(asdict(config), default=str, indent=2) + "\n", encoding="utf-8")
    return train_on(*read_data(config), config, earlier=earlier)


def train_on(
    train_set: DetectionDataset | None,
    val_set: DetectionDataset,
    config: TrainConfig,
    *,
    earlier: Checkpoint | None = None,
) -> Path:
    """As `train`, on datasets in memory; None trains on endless `codes` scenes. `config.data` and splits are not read.

    Args:
        earlier: the checkpoint to go on from.
    """
    scored_classes(val_set, val_set.class_names, None)  # before the first epoch, not after it
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    weights = None if earlier else config.weights
    model = _start_model(config.arch, len(val_set.class_names), weights)
    if config.batch < 2 and any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules()):
        raise UsageError(f"--batch {config.batch}: the batch norm of {config.arch} needs at least 2 images a step")
    return _Run(config, model, train_set, val_set, earlier).run()


def read_data(config: TrainConfig) -> tuple[DetectionDataset | None, DetectionDataset]:
    """The images to train on (None: endless `codes` scenes) and those to evaluate on, past lint.

    Raises:
        DatasetError: as `read_dataset` and `lint`, or the two have different classes.
    """
    if config.data == CODES:
        folder = config.output / "val"
        if not (folder / "annotations.json").exists():
            write_coco(folder, count=VAL_SCENES, seed=config.seed + VAL_SEED_OFFSET)
        return None, read_dataset(folder)
    path = Path(config.data)
    splits = list_splits(path)
    train_set = _linted(read_dataset(path, config.split or _train_split(path, splits)), config)
    # Never `test`: the evaluation chooses best.pt, and a test set that chooses measures nothing.
    val_split = config.val_split or find_split(splits, "val")
    val_set = _linted(read_dataset(path, val_split), config) if val_split else None
    shared = 0 if val_set is None else _shared_images(train_set, val_set)
    if val_set is None or (config.val_split is None and shared == len(val_set)):
        train_set, val_set = hold_out(train_set, config.seed)
        held_out = config.output / "held_out.json"
        with atomic_path(held_out) as part:
            part.write_text(json.dumps(coco_json(val_set)), encoding="utf-8")
        _say(f"no evaluation split apart from the training images: {len(val_set)} are held out, listed in {held_out}")
    elif shared:
        _say(f"warning: {shared} of the {len(val_set)} evaluation images are trained on too; AP will look too good")
    if train_set.class_names != val_set.class_names:
        raise DatasetError(
            f"{train_set.name} has the classes {', '.join(train_set.class_names)} but {val_set.name} has "
            f"{', '.join(val_set.class_names)}; give both splits the same class list"
        )
    _say(f"train on {len(train_set)} images of {train_set.name}, evaluate on {len(val_set)} of {val_set.name}")
    return train_set, val_set


def hold_out(dataset: DetectionDataset, seed: int) -> tuple[DetectionDataset, DetectionDataset]:
    """Split off a tenth of the images that have boxes, at least one, for evaluation.

    Where only one image has boxes, it serves as both.

    Raises:
        DatasetError: no image has boxes.
    """
    with_boxes = [i for i, record in enumerate(dataset.records) if not record.crowd.all()]
    if not with_boxes:
        raise DatasetError(f"{dataset.name}: none of {len(dataset)} images has a box; there is nothing to learn")
    count = max(1, round(HELD_OUT * len(with_boxes)))
    held_out = set(np.random.default_rng(seed).permutation(with_boxes)[:count].tolist())
    kept_back = held_out if len(with_boxes) > 1 else set()
    return (
        replace(dataset, records=tuple(r for i, r in enumerate(dataset.records) if i not in kept_back)),
        replace(
            dataset,
            name=f"{dataset.name} (held out)",
            records=tuple(r for i, r in enumerate(dataset.records) if i in held_out),
        ),
    )


def _train_split(path: Path, splits: list[str]) -> str | None:
    """The split to train on where none is named; None: everything.

    Raises:
        DatasetError: there are several, and none has a usual name.
    """
    found = find_split(splits, "train") or find_split(splits, "trainval")
    if found is None and len(splits) > 1:
        raise DatasetError(f"{path} has no split called train but {', '.join(splits)}; choose with --split")
    return found


def _shared_images(one: DetectionDataset, other: DetectionDataset) -> int:
    return len({record.path.resolve() for record in one.records} & {record.path.resolve() for record in other.records})


class _Run:
    """One training: the loop and all that it carries along."""

    def __init__(
        self,
        config: TrainConfig,
        model: SSD,
        train_set: DetectionDataset | None,
        val_set: DetectionDataset,
        earlier: Checkpoint | None,
    ):
        self.config = config
        self.val_set = val_set
        self.device = torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        amp = _amp_helps(model, self.device) if config.amp is None else config.amp
        self.autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=amp)
        # Channels last is the layout that convolutions want on both kinds of device.
        self.model = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        height, width = model.config.size_hw
        self.scale = torch.tensor([width, height, width, height], device=self.device)
        self.anchors = model.default_boxes_xyxy * self.scale  # [anchors, 4] pixels

        self.samples = _samples(config, train_set, model)
        count = len(train_set) if train_set else config.scenes
        self.steps_per_epoch = EpochBatches(count, config.batch, config.epochs, config.seed).steps_per_epoch
        self.optimizer = torch.optim.AdamW(_parameter_groups(model, config.weight_decay), lr=_peak_lr(config))
        total = config.epochs * self.steps_per_epoch
        # OneCycleLR divides by zero where the first tenth is exactly one step.
        self.schedule = OneCycleLR(self.optimizer, _peak_lr(config), total, pct_start=0.1 if total > 20 else 0.3)
        self.card = replace(
            model.make_card(val_set.class_names, val_set.category_ids),
            training_data=train_set.fingerprint() if train_set else f"codes seed {config.seed}",
        )
        self.step = 0
        self.best_ap = -1.0
        if earlier:
            self._go_on_from(earlier)
        batches = EpochBatches(count, config.batch, config.epochs, config.seed, first_step=self.step)
        self.loader = make_loader(self.samples, batches, workers=_workers(config.workers))

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
        self.model.load_state_dict(earlier.state_dict)
        self.optimizer.load_state_dict(earlier.training["optimizer"])
        self.schedule.load_state_dict(earlier.training["schedule"])
        self.step = earlier.training["step"]
        self.best_ap = earlier.training["best_ap"]

    def run(self) -> Path:
        """The loop over epochs; returns the path of the best checkpoint."""
        best, last = self.config.output / "best.pt", self.config.output / "last.pt"
        total = self.config.epochs * self.steps_per_epoch
        with _stop_requests() as stop:
            batches = iter(self.loader)
            while self.step < total and not stop:
                epoch = self.step // self.steps_per_epoch
                try:
                    figures = self._epoch(epoch, batches, stop)
                except DatasetError:  # an image that has gone since lint: the steps before it are kept
                    self._save_last(last)
                    raise
                if self.step < (epoch + 1) * self.steps_per_epoch:
                    break  # stopped within the epoch, or before its first step
                try:
                    figures |= self._evaluate()
                    if figures["AP"] > self.best_ap:
                        self.best_ap = figures["AP"]
                        self._save(best, metrics={f"val_{name}": figures[name] for name in ("AP", "AP50", "AP75")})
                finally:  # whatever the evaluation meets, the epoch is not lost
                    self._save_last(last)
                self._report(epoch, figures)
            if self.step < total:
                self._save_last(last)
                _say(f"stopped at step {self.step} of {total}; go on with --resume")
                raise KeyboardInterrupt
        return best

    def _epoch(self, epoch: int, batches: Iterator[Batch | DatasetError], stop: list[int]) -> dict[str, float]:
        """Train to the end of the epoch, or to a request to stop; returns mean losses and times."""
        self.model.train()
        first = self.step % self.steps_per_epoch
        losses = np.zeros(2)
        steps, waited = 0, 0.0
        begin = time.perf_counter()
        title = f"epoch {epoch + 1}/{self.config.epochs}"
        with tqdm(total=self.steps_per_epoch, initial=first, desc=title, unit="step", leave=False, disable=None) as bar:
            while first + steps < self.steps_per_epoch and not stop:
                asked = time.perf_counter()
                images, boxes, labels = _raise_error(next(batches))
                waited += time.perf_counter() - asked
                losses += self._train_step(images, Targets.pad(boxes, labels))
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
            "images_per_s": steps * self.config.batch / seconds,
            "waiting_for_data": waited / seconds,
        }

    def _train_step(self, images: Tensor, targets: Targets) -> tuple[float, float]:
        """One step of the optimiser; returns both parts of the loss.

        Raises:
            SsdEdgeError: the loss is not finite.
        """
        inputs = images.to(self.device, non_blocking=True).float().contiguous(memory_format=torch.channels_last)
        targets = targets.to(self.device)
        with self.autocast:
            raw = self.model(inputs)
        pixels = Targets(targets.boxes_xyxy * self.scale, targets.labels)
        loss = multibox_loss(raw.cls_logits, raw.bbox_regression, self.anchors, pixels)
        parts = (loss.localisation.item(), loss.classification.item())
        if not np.isfinite(parts).all():
            raise SsdEdgeError(
                f"the loss at step {self.step} is {parts}: training diverged. Start anew with a lower --lr and "
                "another -o; --weights with the best.pt of this run keeps what was learnt"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), GRADIENT_CLIP)
        self.optimizer.step()
        self.schedule.step()
        return parts

    def _evaluate(self) -> dict[str, float]:
        detector = TorchDetector(self.model, self.card)
        metrics = evaluate(detector, self.val_set).metrics
        return {name: metrics[name] for name in ("AP", "AP50", "AP75")}

    def _save(self, path: Path, *, metrics: dict[str, float]) -> None:
        """A checkpoint for use: no training state."""
        save_checkpoint(path, Checkpoint(replace(self.card, metrics=metrics), self.model.state_dict()))

    def _save_last(self, path: Path) -> None:
        """A checkpoint to go on from."""
        state = {
            "recipe": json.dumps(self.config.recipe()),
            "val_data": self.val_set.fingerprint(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "step": self.step,
            "best_ap": self.best_ap,
        }
        save_checkpoint(path, Checkpoint(self.card, self.model.state_dict(), state))

    def _report(self, epoch: int, figures: dict[str, float]) -> None:
        with open(self.config.output / "history.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"epoch": epoch + 1, "step": self.step, **figures}) + "\n")
        _say(
            f"epoch {epoch + 1}/{self.config.epochs}: loss {figures['loss']:.3f}, val AP {figures['AP']:.3f}, "
            f"AP50 {figures['AP50']:.3f}, {figures['images_per_s']:.1f} images/s, "
            f"{figures['waiting_for_data']:.0%} of the time waiting for data"
        )


def _load_earlier(last: Path, config: TrainConfig) -> Checkpoint:
    """The checkpoint to resume from.

    Raises:
        ModelFileError: it is not there, or holds no training state.
        UsageError: it was trained with other settings.
    """
    earlier = load_checkpoint(last)
    if not earlier.training.keys() >= TRAINING_STATE:
        raise ModelFileError(f"{last} holds no training state, so nothing to resume; train without --resume")
    recipe = json.loads(earlier.training["recipe"])
    wanted = json.loads(json.dumps(config.recipe()))
    changed = [
        f"{name} {recipe.get(name)!r} -> {value!r}" for name, value in wanted.items() if recipe.get(name) != value
    ]
    if changed:
        raise UsageError(f"{last} was trained with other settings: {'; '.join(changed)}; resume with the same ones")
    return earlier


def _start_model(arch: str, classes: int, weights: str | None) -> SSD:
    if weights is None or weights == COCO:
        return create_model(arch, classes, weights=weights)
    earlier = load_checkpoint(Path(weights))  # before the model is made: the path may be wrong
    model = create_model(arch, classes)
    load_fitting(model, earlier.state_dict)
    return model


def _raise_error(batch: Batch | DatasetError) -> Batch:
    """A worker's error travels as a value: raised there, it would arrive as the text of a traceback."""
    if isinstance(batch, DatasetError):
        raise batch
    return batch


def _samples(config: TrainConfig, train_set: DetectionDataset | None, model: SSD) -> Dataset[Sample | DatasetError]:
    size_hw = model.config.size_hw
    if train_set is None:
        return CodesSamples(config.scenes, size_hw, config.seed)
    transform = TrainTransform(size_hw, model.config.mean, hflip=config.hflip, zoom_out=config.zoom_out)
    return ImageSamples(train_set, transform, config.seed)


def _linted(dataset: DetectionDataset, config: TrainConfig) -> DetectionDataset:
    usable, report = lint(dataset, strict=config.strict)
    if not report.ok:
        _say(str(report))
    return usable


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay on convolution weights only: shrinking biases and norms regularises nothing."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _peak_lr(config: TrainConfig) -> float:
    if config.lr is not None:
        return config.lr
    return PEAK_LR[config.arch] * (FINE_TUNE_FACTOR if config.weights else 1.0)


def _workers(asked: int | None) -> int:
    return max(1, (os.cpu_count() or 1) // 4) if asked is None else asked


def _amp_helps(model: nn.Module, device: torch.device) -> bool:
    """Whether bfloat16 makes training faster: the hardware computes in it, and on a CPU no convolution is depthwise.

    Measured on an AVX-512 BF16 processor: the backward pass of a strided or 5×5 depthwise convolution takes three to
    seven times as long in bfloat16 as in float32, more than the other layers gain.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
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


def _say(text: str) -> None:
    tqdm.write(text, file=sys.stderr)
