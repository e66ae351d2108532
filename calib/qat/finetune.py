"""Quantisation-aware fine-tuning: a few epochs in which the network computes as its int8 graph will.

The last resort, where giving layers back to float to keep the accuracy costs too much of the speed. What comes out is
an ordinary float checkpoint of the same architecture, whose weights have learnt to bear the rounding: it is exported,
calibrated and quantised as any other. Its ranges are new, so an old table of ranges does not fit it.

Batch norms keep their statistics and scales, as in the graph, where they are folded into constants (section 3.2 of
arXiv:1712.05877); their biases are those of the folded convolutions and are trained.
"""

from __future__ import annotations

import copy
import logging
import math
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssd_edge.calib.qat.fake_quant import FakeQuantization
from ssd_edge.calib.qat.schemes import SCHEMES, Scheme
from ssd_edge.card import ModelCard, file_sha256
from ssd_edge.checkpoint import Checkpoint, model_from_checkpoint, save_checkpoint
from ssd_edge.choices import SMALL
from ssd_edge.data.augment import EvalTransform
from ssd_edge.data.dataset import DetectionDataset
from ssd_edge.data.samples import ImageSamples
from ssd_edge.errors import DatasetError, SinkError, SsdEdgeError, UsageError
from ssd_edge.evaluation.evaluate import detect, evaluate_detections, scored_classes
from ssd_edge.models.batch_norms import batch_norms
from ssd_edge.models.ssd import SSD
from ssd_edge.runtime.backends.torch import TorchDetector
from ssd_edge.training.distributed import Group, process_group
from ssd_edge.training.history import SCORES
from ssd_edge.training.optimisation import Optimisation
from ssd_edge.training.recipes import Recipe, recipe_for, transform_of
from ssd_edge.training.trainer import Trainer
from ssd_edge.training.updater import NotFiniteError

logger = logging.getLogger(__name__)

LR, LR_WITHOUT_NORM = 1e-4, 5e-6  # a fifth of what the preset `small` fine-tunes a trained detector with
CALIBRATION_IMAGES = 64
CALIBRATION_BATCH = 8


@dataclass(frozen=True)
class FinetuneSettings:
    """How to fine-tune.

    Attributes:
        epochs: passes over the images.
        lr: highest learning rate; None: 1e-4, and 5e-6 for an architecture without batch norm.
        batch: images per step.
        hflip: probability of mirroring; 0 is safe where left and right matter (text, codes).
        bits: fewer than the 8 of the graph make it harder.
        seed: same seed, same result on the CPU with the same number of threads.
        progress: show a progress bar where standard error is a terminal.
        threads, workers, device: as in `RunSettings`.
    """

    epochs: int
    lr: float | None = None
    batch: int = 8
    hflip: float = 0.0
    bits: int = 8
    seed: int = 0
    progress: bool = True
    threads: int | None = None
    workers: int | None = None
    device: str | None = None


def quantization_aware_finetune(
    checkpoint: Path,
    output: Path,
    settings: FinetuneSettings,
    *,
    data: DetectionDataset,
    val: DetectionDataset | None,
    target: str,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    float_layers: Collection[str] = (),
) -> Path:
    """Fine-tune a checkpoint under fake quantisation and write the float checkpoint that results; returns its path.

    AdamW with a cosine schedule and the crops and colours of the preset `small`. Of several epochs the one with the
    highest AP under fake quantisation on `val` is kept, without `val` the last.

    The card stays but for `parent_sha256`, `training_data` (of `data`) and `metrics`. These are those of the new float
    weights, `val_AP` and so on, and under fake quantisation, `val_int8_AP` and so on (with `bits`); none without `val`.

    Args:
        checkpoint: a `.pt` or `.safetensors` file of ssd-edge.
        output: another such name.
        data: images to train on, past lint; the first ranges are measured on some of them.
        val: images to evaluate on, not among those of `data`.
        target: `tensorrt` or `cpu`, as for `fake_quant.SCHEMES`.
        ranges: (low, high) of activations by layer, as `module_ranges` gives them; what is missing is measured.
        float_layers: convolutions that are float in the graph too; `module_ranges.float_layers` finds them.

    Raises:
        UsageError: unknown target, a number out of range, `output` is the checkpoint itself or has another ending.
        DatasetError: other classes than the checkpoint's, no box to learn from, nothing in `val` to score.
        ModelFileError: as `model_from_checkpoint`.
        SinkError: `output` cannot be written, which shows before training.
        SsdEdgeError: an activation, the loss or its gradient is not finite. Nothing is written then.
        KeyboardInterrupt: at Ctrl-C or SIGTERM, after the step under way. Nothing is written then.
    """
    scheme = _scheme(target, settings.bits)
    _check_output(checkpoint, output)
    model, card = model_from_checkpoint(checkpoint)
    card = replace(card, parent_sha256=file_sha256(checkpoint), training_data=data.fingerprint())
    data = with_classes_of(card, data)
    _check_data(data, val)
    optimisation = _optimisation(settings, model)
    with _alone(settings) as group:
        model = model.to(group.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        _freeze_norms(model)
        quantization = FakeQuantization(model, scheme, float_layers=float_layers)
        quantization.set_ranges(ranges or {})
        quantization.calibrate(_calibration_batches(data, model, settings.seed))
        trainer = _FinetuneTrainer(model, card, data, val, group, settings, optimisation)
        trainer.run()
        model.load_state_dict(trainer.best_state)
        quantization.remove()
        metrics = {f"val_int{settings.bits}_{name}": value for name, value in trainer.best_scores.items()}
        if val is not None:
            scores = scores_of(model, card, val, settings.progress)
            metrics |= {f"val_{name}": value for name, value in scores.items()}
    save_checkpoint(output, Checkpoint(replace(card, metrics=metrics), model.cpu().state_dict()))
    return output


def with_classes_of(card: ModelCard, data: DetectionDataset) -> DetectionDataset:
    """The dataset with its labels in the order of the card's classes.

    Raises:
        DatasetError: it has other classes. Fewer are refused too: objects of the missing ones, not annotated, would be
            learnt as background.
    """
    if set(data.class_names) != set(card.class_names):
        raise DatasetError(
            f"{data.name} has the classes {', '.join(data.class_names)}, the checkpoint {', '.join(card.class_names)}; "
            "give the dataset that it was trained on, or train on this one first (ssd-edge train --weights)"
        )
    if data.class_names == card.class_names:
        return data
    label_of = np.array([*map(card.class_names.index, data.class_names), -1])  # the last one is that of UNKNOWN_LABEL
    ids = tuple(data.category_ids[data.class_names.index(name)] for name in card.class_names)
    records = tuple(replace(record, labels=label_of[record.labels]) for record in data.records)
    return replace(data, class_names=card.class_names, category_ids=ids, records=records)


def scores_of(model: SSD, card: ModelCard, val: DetectionDataset, progress: bool) -> dict[str, float]:
    """AP, AP50 and AP75 of the model as it is, fake quantisation included; it is in evaluation mode afterwards."""
    detections = detect(TorchDetector(model, card), val, progress=progress)
    metrics = evaluate_detections(detections, val, card.class_names).metrics
    return {name: metrics[name] for name in SCORES}


class _FinetuneTrainer(Trainer):
    """A training that leaves nothing but the weights of its best epoch, in memory.

    Attributes:
        best_state: the model's `state_dict`, on the CPU.
        best_scores: AP, AP50 and AP75 of these weights under fake quantisation; empty without `val`.
    """

    def __init__(
        self,
        model: SSD,
        card: ModelCard,
        data: DetectionDataset,
        val: DetectionDataset | None,
        group: Group,
        settings: FinetuneSettings,
        optimisation: Optimisation,
    ) -> None:
        recipe = _recipe(optimisation, model)
        super().__init__(
            model,
            ImageSamples(data, transform_of(recipe, model), settings.seed),
            recipe,
            group,
            optimisation,
            seed=settings.seed,
            workers=settings.workers,
            progress=settings.progress,
            title="fine-tuning epoch",
        )
        self.model, self.card, self.val, self.progress = model, card, val, settings.progress
        self.scores_before: dict[str, float] = {}
        self.best_state: dict[str, Tensor] = {}
        self.best_scores: dict[str, float] = {}

    def before_training(self) -> None:
        """Evaluate the weights to start from."""
        self.scores_before = self._scores()

    def run(self) -> None:
        """As `Trainer.run`, but a request to stop ends it in the very last step too; says if it did not help."""
        super().run()
        if self.stop:
            raise KeyboardInterrupt
        if self.val and self.best_scores["AP"] < self.scores_before["AP"]:
            logger.warning(
                "fine-tuning did not help: AP under fake quantisation was %.4f before and is %.4f at best; "
                "try a lower learning rate, more epochs or more images",
                self.scores_before["AP"],
                self.best_scores["AP"],
            )

    def end_epoch(self) -> None:
        """Evaluate and keep the best weights."""
        scores, loss = self._scores(), self.sums.loss
        logger.info("epoch %d of %d: loss %.4f, %s", self.epoch, self.recipe.epochs, loss, scores or "not evaluated")
        if not self.best_state or not self.val or scores["AP"] > self.best_scores["AP"]:
            self.best_scores = scores
            self.best_state = copy.deepcopy({name: value.cpu() for name, value in self.model.state_dict().items()})

    def _scores(self) -> dict[str, float]:
        return scores_of(self.model, self.card, self.val, self.progress) if self.val else {}

    def diverged(self, loss: NotFiniteError, names: str) -> SsdEdgeError:
        """The error, with what to do."""
        return SsdEdgeError(
            f"the loss at step {self.step} of quantisation-aware fine-tuning is {loss}, on the batch of {names}; "
            "nothing is written. Look at these images and boxes; else choose a lower learning rate"
        )


def _optimisation(settings: FinetuneSettings, model: SSD) -> Optimisation:
    """Its changes to the recipe of `small`.

    Raises:
        UsageError: a number out of range.
    """
    return Optimisation(
        epochs=settings.epochs,
        batch=settings.batch,
        lr=settings.lr if settings.lr is not None else LR if batch_norms(model) else LR_WITHOUT_NORM,
        hflip=settings.hflip,
        amp=False,  # rounding to levels needs float32
    )


def _recipe(optimisation: Optimisation, model: SSD) -> Recipe:
    """That of `small` without what is for many epochs: the moving average, and the rise of the learning rate."""
    recipe = recipe_for(SMALL, model.config.arch, batch_norm=bool(batch_norms(model)), fine_tune=True)
    return optimisation.changes(replace(recipe, schedule="cosine", ema=0.0))


@contextmanager
def _alone(settings: FinetuneSettings) -> Iterator[Group]:
    """The one process, with its device, threads and random numbers as they are asked for.

    Raises:
        UsageError: the device is not there; or it is one process of several.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)  # for a backbone that draws, such as one with dropout
    with process_group(settings.device) as group:
        if group.world > 1:
            raise UsageError("quantisation-aware fine-tuning runs in one process; start it without torchrun")
        yield group


def _scheme(target: str, bits: int) -> Scheme:
    if target not in SCHEMES:
        raise UsageError(f"unknown target {target!r}; there are {', '.join(SCHEMES)}")
    return replace(SCHEMES[target], bits=bits)


def _check_data(data: DetectionDataset, val: DetectionDataset | None) -> None:
    """Whether there is something to learn, and something to score.

    Raises:
        DatasetError: there is not.
    """
    if all(record.crowd.all() for record in data.records):
        raise DatasetError(f"{data.name}: none of {len(data)} images has a box to learn from; give images with boxes")
    if val is not None:
        scored_classes(val, data.class_names, None)


def _check_output(checkpoint: Path, output: Path) -> None:
    """Whether the result may be written there, and can be: hours of training should not end in a message.

    Raises:
        UsageError: it is the checkpoint itself, or another kind of file.
        SinkError: it cannot.
    """
    if output.suffix not in (".pt", ".safetensors"):
        raise UsageError(
            f"output {output} ends in neither .pt nor .safetensors, by which other commands know a checkpoint"
        )
    if output.resolve() == checkpoint.resolve():
        raise UsageError(
            f"output {output} is the checkpoint itself; choose another name, the original may be the better"
        )
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=output.parent, prefix=f".{output.name}."):
            pass
    except OSError as error:
        raise SinkError(
            f"cannot write {output}: {error.strerror or error}; choose a folder that is writable and has space"
        ) from error


def _freeze_norms(model: SSD) -> None:
    norms = batch_norms(model)
    model.freeze(norms)
    for norm in norms:
        if norm.bias is not None:
            norm.bias.requires_grad_(True)


def _calibration_batches(data: DetectionDataset, model: SSD, seed: int) -> Iterator[Tensor]:
    """Some of the images as the network sees them in use; float32 [batch, 3, height, width]."""
    samples = ImageSamples(data, EvalTransform(model.config.size_hw), seed)
    chosen = np.random.default_rng(seed).permutation(len(data))[:CALIBRATION_IMAGES]
    device = next(model.parameters()).device
    for part in np.array_split(chosen, math.ceil(len(chosen) / CALIBRATION_BATCH)):
        images = torch.stack([samples.sample((0, int(index)))[0] for index in part])
        yield images.to(device).float().contiguous(memory_format=torch.channels_last)
