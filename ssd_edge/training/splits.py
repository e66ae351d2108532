"""Which images to train on and which to evaluate on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ssd_edge.card import file_sha256
from ssd_edge.data.codes.write import write_coco
from ssd_edge.data.dataset import DetectionDataset
from ssd_edge.data.formats.coco_json import coco_json
from ssd_edge.data.lint import lint
from ssd_edge.data.readers import find_split, list_splits, read_dataset
from ssd_edge.errors import DatasetError, UsageError
from ssd_edge.files import atomic_path
from ssd_edge.training.distributed import say

CODES = "codes"  # the word that stands for the synthetic scenes where a dataset is asked for
VAL_SCENES = 200  # scenes on which a training on `codes` is evaluated after every epoch
VAL_SEED_OFFSET = 1_000_003  # away from the seeds people choose, so that no scene is trained and evaluated on
HELD_OUT = 0.1  # share of the images kept for evaluation where a dataset has no such split


@dataclass(frozen=True)
class DataSettings:
    """Which images to train on and which to evaluate on.

    Attributes:
        data: a dataset in any format that `read_dataset` knows, or `codes`.
        split, val_split: names such as `train` or `train+val`; None: train, and val or else a tenth held out.
        scenes: with `codes`, scenes an epoch.
        strict: a finding of the lint pass is an error.

    Raises:
        UsageError: no scenes.
    """

    data: str
    split: str | None = None
    val_split: str | None = None
    scenes: int = 4000
    strict: bool = False

    def __post_init__(self) -> None:
        if self.scenes < 1:
            raise UsageError(f"scenes is {self.scenes}; expected at least 1")


def read_data(settings: DataSettings, folder: Path, seed: int) -> tuple[DetectionDataset | None, DetectionDataset]:
    """The images to train on (None: endless `codes` scenes) and those to evaluate on, past lint.

    Args:
        folder: of the run; it gets the scenes to evaluate on, or the list of held-out images.
        seed: of the scenes to evaluate on, and of the choice of held-out images.

    Raises:
        DatasetError: as `read_dataset` and `lint`, or the two have different classes.
    """
    if settings.data == CODES:
        scenes = folder / "val"
        if not (scenes / "annotations.json").exists():
            write_coco(scenes, count=VAL_SCENES, seed=seed + VAL_SEED_OFFSET)
        return None, read_dataset(scenes)
    path = Path(settings.data)
    splits = list_splits(path)
    train_set = _linted(read_dataset(path, settings.split or _train_split(path, splits)), settings)
    # Never `test`: the evaluation chooses best.pt, and a test set that chooses measures nothing.
    val_split = settings.val_split or find_split(splits, "val")
    val_set = _linted(read_dataset(path, val_split), settings) if val_split else None
    shared = 0 if val_set is None else shared_images(train_set, val_set)
    if val_set is None or (settings.val_split is None and shared == len(val_set)):
        train_set, val_set = hold_out(train_set, seed)
        held_out = folder / "held_out.json"
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


def _linted(dataset: DetectionDataset, settings: DataSettings) -> DetectionDataset:
    usable, report = lint(dataset, strict=settings.strict)
    if not report.ok:
        say(str(report))
    return usable
