"""Which images to train on and which to evaluate on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ssd_edge.card import file_sha256
from ssd_edge.data.codes.write import write_coco
from ssd_edge.data.dataset import DetectionDataset
from ssd_edge.data.formats.coco_json import coco_json
from ssd_edge.data.lint import lint
from ssd_edge.data.readers import find_split, list_splits, read_dataset
from ssd_edge.errors import DatasetError
from ssd_edge.files import atomic_path
from ssd_edge.training.config import CODES, TrainConfig
from ssd_edge.training.distributed import say

VAL_SCENES = 200  # scenes on which a training on `codes` is evaluated after every epoch
VAL_SEED_OFFSET = 1_000_003  # away from the seeds people choose, so that no scene is trained and evaluated on
HELD_OUT = 0.1  # share of the images kept for evaluation where a dataset has no such split


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
    shared = 0 if val_set is None else shared_images(train_set, val_set)
    if val_set is None or (config.val_split is None and shared == len(val_set)):
        train_set, val_set = hold_out(train_set, config.seed)
        held_out = config.output / "held_out.json"
        with atomic_path(held_out) as part:
            part.write_text(json.dumps(coco_json(val_set)), encoding="utf-8")
        what = (
            f"{len(val_set)} are held out" if shared_images(train_set, val_set) == 0 else "the only one serves as both"
        )
        say(f"no evaluation split apart from the training images: {what}, listed in {held_out}")
    elif shared:
        say(f"warning: {shared} of the {len(val_set)} evaluation images are trained on too; AP will look too good")
    if train_set.class_names != val_set.class_names:
        raise DatasetError(
            f"{train_set.name} has the classes {', '.join(train_set.class_names)} but {val_set.name} has "
            f"{', '.join(val_set.class_names)}; give both splits the same class list"
        )
    say(f"train on {len(train_set)} images of {train_set.name}, evaluate on {len(val_set)} of {val_set.name}")
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


def shared_images(one: DetectionDataset, other: DetectionDataset) -> int:
    """How many images of `other` are in `one` too: the same file, or a copy of it under another name.

    Only files of equal size are read to compare them.
    """
    paths = {record.path.resolve() for record in one.records}
    others = {record.path.resolve() for record in other.records}
    same = others & paths
    sizes = Counter(_sizes(paths))
    candidates = {path for path in others - same if sizes[path.stat().st_size]}
    wanted = Counter(_sizes(candidates))
    contents = {file_sha256(path) for path in paths if wanted[path.stat().st_size]} if candidates else set()
    return len(same) + sum(file_sha256(path) in contents for path in candidates)


def _sizes(paths: Iterable[Path]) -> Iterable[int]:
    return (path.stat().st_size for path in paths)


def _train_split(path: Path, splits: list[str]) -> str | None:
    """The split to train on where none is named; None: everything.

    Raises:
        DatasetError: there are several, and none has a usual name.
    """
    found = find_split(splits, "train") or find_split(splits, "trainval")
    if found is None and len(splits) > 1:
        raise DatasetError(f"{path} has no split called train but {', '.join(splits)}; choose with --split")
    return found


def _linted(dataset: DetectionDataset, config: TrainConfig) -> DetectionDataset:
    usable, report = lint(dataset, strict=config.strict)
    if not report.ok:
        say(str(report))
    return usable
