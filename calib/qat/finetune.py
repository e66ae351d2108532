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
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ssd_edge.calib.qat.fake_quant import SCHEMES, FakeQuantization, Scheme
from ssd_edge.card import ModelCard, file_sha256
from ssd_edge.checkpoint import Checkpoint, model_from_checkpoint, save_checkpoint
from ssd_edge.data.augment import EvalTransform
from ssd_edge.data.dataset import DetectionDataset
from ssd_edge.data.samples import Batch, ImageSamples
from ssd_edge.errors import DatasetError, SinkError, SsdEdgeError, UsageError
from ssd_edge.evaluation.evaluate import detect, evaluate_detections, scored_classes
from ssd_edge.models.loss import Targets
from ssd_edge.models.ssd import SSD
from ssd_edge.runtime.backends.torch import TorchDetector
from ssd_edge.training.config import TrainConfig
from ssd_edge.training.distributed import Group, process_group
from ssd_edge.training.history import History
from ssd_edge.training.recipes import SMALL, Recipe, recipe_for
from ssd_edge.training.trainer import SCORES, Run, _next

log = logging.getLogger(__name__)

LR, LR_WITHOUT_NORM = 1e-4, 5e-6  # a fifth of what the preset `small` fine-tunes a trained detector with
CALIBRATION_IMAGES = 64
CALIBRATION_BATCH = 8


def quantization_aware_finetune(
    checkpoint: Path,
    output: Path,
    *,
    data: DetectionDataset,
    val: DetectionDataset | None,
    epochs: int,
    target: str,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    float_layers: Collection[str] = (),
    lr: float | None = None,
    batch: int = 8,
    hflip: float = 0.0,
    bits: int = 8,
    seed: int = 0,
    progress: bool = True,
    threads: int | None = None,
    workers: int | None = None,
    device: str | None = None,
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
        epochs: passes over the images.
        target: `tensorrt` or `cpu`, as for `fake_quant.SCHEMES`.
        ranges: (low, high) of activations by layer, as `module_ranges` gives them; what is missing is measured.
        float_layers: convolutions that are float in the graph too; `module_ranges.float_layers` finds them.
        lr: highest learning rate; None: 1e-4, and 5e-6 for an architecture without batch norm.
        batch: images a step.
        hflip: probability of mirroring; 0 is safe where left and right matter (text, codes).
        bits: fewer than the 8 of the graph make it harder.
        seed: same seed, same result on the CPU with the same number of threads.
        progress: show a progress bar where standard error is a terminal.
        threads, workers, device: as in `TrainConfig`.

    Raises:
        UsageError: unknown target, a number out of range, `output` is the checkpoint itself or has another ending.
        DatasetError: other classes than the checkpoint's, no box to learn from, nothing in `val` to score.
        ModelFileError: as `model_from_checkpoint`.
        SinkError: `output` cannot be written, which shows before training.
        SsdEdgeError: an activation, the loss or its gradient is not finite. Nothing is written then.
        KeyboardInterrupt: at Ctrl-C or SIGTERM, after the step under way. Nothing is written then.
    """
    scheme = _scheme(target, bits)
    _check_output(checkpoint, output)
    model, card = model_from_checkpoint(checkpoint)
    parent, fingerprint = file_sha256(checkpoint), data.fingerprint()
    data = with_classes_of(card, data)
    if all(record.crowd.all() for record in data.records):
        raise DatasetError(f"{data.name}: none of {len(data)} images has a box to learn from; give images with boxes")
    if val is not None:
        scored_classes(val, card.class_names, None)
    config = TrainConfig(
        data="",  # not read: the images are at hand
        output=output.parent,
        arch=card.arch,
        epochs=epochs,
        batch=batch,
        lr=lr if lr is not None else LR if _norms(model) else LR_WITHOUT_NORM,
        hflip=hflip,
        seed=seed,
        workers=workers,
        threads=threads,
        amp=False,  # rounding to levels needs float32
    )
    if threads is not None:
        torch.set_num_threads(threads)
    torch.manual_seed(seed)  # for a backbone that draws, such as one with dropout
    with process_group(device) as group:
        if group.world > 1:
            raise UsageError("quantisation-aware fine-tuning runs in one process; start it without torchrun")
        model = model.to(group.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        _freeze_norms(model)
        quantization = FakeQuantization(model, scheme, float_layers=float_layers)
        quantization.set_ranges(ranges or {})
        quantization.calibrate(_calibration_batches(data, model, seed))
        run = _Run(config, group, model, card, data, val, progress=progress)
        run.run()
        model.load_state_dict(run.best_state)
        quantization.remove()
        metrics = {f"val_int{bits}_{name}": value for name, value in run.best_scores.items()}
        if val is not None:
            metrics |= {f"val_{name}": value for name, value in scores_of(model, card, val, progress).items()}
    card = replace(card, parent_sha256=parent, training_data=fingerprint, metrics=metrics)
    save_checkpoint(output, Checkpoint(card, model.cpu().state_dict()))
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


class _Run(Run):
    """A training that leaves nothing but the weights of its best epoch, in memory.

    Attributes:
        best_state: the model's `state_dict`, on the CPU.
        best_scores: AP, AP50 and AP75 of these weights under fake quantisation; empty without `val`.
    """

    def __init__(
        self,
        config: TrainConfig,
        group: Group,
        model: SSD,
        card: ModelCard,
        data: DetectionDataset,
        val: DetectionDataset | None,
        *,
        progress: bool,
    ) -> None:
        super().__init__(config, _recipe(config, model), group, model, data, val or data)
        self.card, self.val, self.progress = card, val, progress
        self.best_state: dict[str, Tensor] = {}
        self.best_scores: dict[str, float] = {}

    def _loop(self, batches: Iterator[Batch | DatasetError], stop: list[int], history: History) -> None:
        before = self._scores()
        hidden = None if self.progress else True  # None: shown on a terminal
        with tqdm(total=self.total_steps, desc="fine-tuning", unit="step", leave=False, disable=hidden) as bar:
            while self.step < self.total_steps:
                if self.step % self.steps_per_epoch == 0:
                    self.model.train()
                    total = 0.0
                batch = _next(batches)
                if stop:
                    raise KeyboardInterrupt
                if isinstance(batch, SsdEdgeError):
                    raise batch
                images, boxes, labels = batch
                total += sum(self._train_step(images, Targets.pad(boxes, labels)))
                self.step += 1
                bar.update()
                steps = (self.step - 1) % self.steps_per_epoch + 1
                bar.set_postfix(loss=f"{total / steps:.3f}")
                if steps == self.steps_per_epoch:
                    self._end_of_epoch(total / steps)
        if stop:
            raise KeyboardInterrupt
        if self.val and self.best_scores["AP"] < before["AP"]:
            log.warning(
                "fine-tuning did not help: AP under fake quantisation was %.4f before and is %.4f at best; "
                "try a lower learning rate, more epochs or more images",
                before["AP"],
                self.best_scores["AP"],
            )

    def _end_of_epoch(self, loss: float) -> None:
        scores = self._scores()
        log.info("epoch %d of %d: loss %.4f, %s", self._epoch, self.recipe.epochs, loss, scores or "not evaluated")
        if not self.best_state or not self.val or scores["AP"] > self.best_scores["AP"]:
            self.best_scores = scores
            self.best_state = copy.deepcopy({name: value.cpu() for name, value in self.model.state_dict().items()})

    def _scores(self) -> dict[str, float]:
        return scores_of(self.model, self.card, self.val, self.progress) if self.val else {}

    def _diverged(self, localisation: float, classification: float, norm: float) -> SsdEdgeError:
        names = ", ".join(map(self.samples.name, self.batches.keys(self.step)))
        return SsdEdgeError(
            f"the loss at step {self.step} of quantisation-aware fine-tuning is {localisation} (localisation) + "
            f"{classification} (classification), its gradient's norm {norm}, on the batch of {names}; nothing is "
            "written. Look at these images and boxes; else choose a lower learning rate"
        )


def _recipe(config: TrainConfig, model: SSD) -> Recipe:
    """That of `small` without what is for many epochs: the moving average, and the rise of the learning rate."""
    recipe = recipe_for(SMALL, config.arch, batch_norm=bool(_norms(model)), fine_tune=True)
    return config.changes(replace(recipe, schedule="cosine", ema=0.0))


def _scheme(target: str, bits: int) -> Scheme:
    if target not in SCHEMES:
        raise UsageError(f"unknown target {target!r}; there are {', '.join(SCHEMES)}")
    return replace(SCHEMES[target], bits=bits)


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


def _norms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]


def _freeze_norms(model: SSD) -> None:
    norms = _norms(model)
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
