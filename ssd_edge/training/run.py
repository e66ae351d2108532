"""Train a detector: one dataset (or the endless `codes` scenes) in, `best.pt` and `last.pt` out."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch

from ssd_edge.checkpoint import Checkpoint
from ssd_edge.data.dataset import DetectionDataset
from ssd_edge.errors import UsageError
from ssd_edge.evaluation.evaluate import scored_classes
from ssd_edge.files import atomic_path
from ssd_edge.models.create import create_model
from ssd_edge.training.config import TrainConfig
from ssd_edge.training.distributed import Group, process_group
from ssd_edge.training.initial_model import resumed_model, start_model, starts_from_detector
from ssd_edge.training.recipes import Recipe, default_preset, recipe_for
from ssd_edge.training.resume import check_recipe, load_earlier
from ssd_edge.training.splits import read_data
from ssd_edge.training.trainer import Run, has_batch_norm


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
    last = config.output / "last.pt"
    if last.exists() and not config.resume:
        raise UsageError(f"{last} is there already: go on with --resume, or choose another folder with -o")
    earlier = load_earlier(last, config) if config.resume else None
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
    recipe = choose_recipe(config, None if train_set is None else len(train_set))
    if earlier:
        check_recipe(config.output / "last.pt", earlier, recipe)
        model = resumed_model(config, earlier)
    else:
        model = start_model(config, recipe, group, train_set, val_set)
    run = Run(config, recipe, group, model, train_set, val_set)
    if earlier:
        run.go_on_from(earlier)
    return run.run()


def choose_recipe(config: TrainConfig, images: int | None) -> Recipe:
    """The recipe for so many images (None: endless `codes` scenes), with what the configuration says otherwise.

    Raises:
        UsageError: as `recipe_for`; or a warm-up for a schedule that has its own.
    """
    recipe = recipe_for(
        config.preset or default_preset(images),
        config.arch,
        batch_norm=has_batch_norm(create_model(config.arch, 1)),
        fine_tune=starts_from_detector(config),
    )
    if config.warmup is not None and recipe.schedule == "one_cycle":
        raise UsageError("--warmup: the one-cycle schedule of this preset rises over its first tenth; leave it out")
    return config.changes(recipe)
