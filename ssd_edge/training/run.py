"""Train a detector: one dataset (or the endless `codes` scenes) in, `best.pt` and `last.pt` out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from ssd_edge.checkpoint import Checkpoint
from ssd_edge.data.augment import EvalTransform
from ssd_edge.data.dataset import DetectionDataset
from ssd_edge.data.samples import CodesSamples, ImageSamples, Samples
from ssd_edge.errors import UsageError
from ssd_edge.evaluation.evaluate import scored_classes
from ssd_edge.files import atomic_path
from ssd_edge.models.ssd import SSD
from ssd_edge.training.checkpoints import CheckpointedTrainer
from ssd_edge.training.config import TrainConfig
from ssd_edge.training.distributed import Group, process_group
from ssd_edge.training.initial_model import resumed_model, start_model
from ssd_edge.training.optimisation import choose_recipe
from ssd_edge.training.recipes import Recipe, transform_of
from ssd_edge.training.resume import check_recipe, load_earlier
from ssd_edge.training.splits import read_data


def train(config: TrainConfig) -> Path:
    """Train and return the path of `best.pt`, the checkpoint with the highest AP on the evaluation images.

    Ctrl-C (and SIGTERM) finish the step under way and save `last.pt`; with `resume` the run goes on from that step,
    on the CPU bit-equal to a run that was never stopped. Under `torchrun` all its processes train together; `output`
    is then a folder that all of them can read.

    Raises:
        DatasetError: nothing to train on; a split that does not exist; findings of lint with `strict`.
        UsageError: settings that differ from those of the run to resume, or `last.pt` is there without `resume`.
        SinkError: `output` cannot be written to.
        SsdEdgeError: the loss is no longer finite, or a process died.
        KeyboardInterrupt: after an early end, once `last.pt` is saved.
    """
    run = config.run
    last = run.output / "last.pt"
    if last.exists() and not run.resume:
        raise UsageError(f"{last} is there already: go on with --resume, or choose another folder with -o")
    earlier = load_earlier(last, config.settings()) if run.resume else None
    with process_group(run.device) as group:
        if group.is_first:
            with atomic_path(run.output / "config.json") as part:  # shows now, not after an epoch, if it is writable
                part.write_text(json.dumps(config.flat(), default=str, indent=2) + "\n", encoding="utf-8")
            data = read_data(config.data, run.output, run.seed)
        group.barrier()  # the first process writes what the others read
        if not group.is_first:
            data = read_data(config.data, run.output, run.seed)
        return _train_on(*data, config, group, earlier)


def train_on(train_set: DetectionDataset | None, val_set: DetectionDataset, config: TrainConfig) -> Path:
    """As `train`, on datasets in memory; None trains on `codes` scenes. Of `config.data` only `scenes` is read."""
    with process_group(config.run.device) as group:
        return _train_on(train_set, val_set, config, group, None)


def _train_on(
    train_set: DetectionDataset | None,
    val_set: DetectionDataset,
    config: TrainConfig,
    group: Group,
    earlier: Checkpoint | None,
) -> Path:
    scored_classes(val_set, val_set.class_names, None)  # before the first epoch, not after it
    run, optimisation = config.run, config.optimisation
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    recipe = choose_recipe(optimisation, config.model, None if train_set is None else len(train_set))
    if earlier:
        check_recipe(run.output / "last.pt", earlier, recipe)
        model = resumed_model(earlier)
    else:
        augment, seed = optimisation.augment, run.seed
        model = start_model(config.model, recipe, group, train_set, val_set, augment=augment, seed=seed)
    card = replace(
        model.make_card(val_set.class_names, val_set.category_ids),
        training_data=train_set.fingerprint() if train_set else f"codes seed {run.seed}",
    )
    trainer = CheckpointedTrainer(
        model, _samples(config, recipe, train_set, model), val_set, card, recipe, group, config
    )
    if earlier:
        trainer.go_on_from(earlier)
    trainer.run()
    return trainer.best


def _samples(config: TrainConfig, recipe: Recipe, train_set: DetectionDataset | None, model: SSD) -> Samples:
    size_hw, seed = model.config.size_hw, config.run.seed
    if train_set is None:
        return CodesSamples(config.data.scenes, size_hw, seed)
    transform = transform_of(recipe, model) if config.optimisation.augment else EvalTransform(size_hw)
    return ImageSamples(train_set, transform, seed)
