"""`DetectionDataset`: the one type into which every annotation format is read."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_edge.errors import DatasetError
from ssd_edge.images import image_size

UNKNOWN_LABEL = -1  # an annotation whose class is not in the list; lint names it and leaves it out


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """One image and its boxes, as annotated: nothing is repaired or left out before lint.

    Attributes:
        path: the image file; lint says when it is not there.
        image_id: unique within the dataset (COCO's own id where it has one).
        size_hw: (height, width) in pixels; (0, 0) when neither the annotation nor the image gives it.
        boxes_xyxy: float32 [n, 4], x0 y0 x1 y1 in pixels; NaN where the annotation has no number.
        labels: int64 [n], index into `DetectionDataset.class_names`, or `UNKNOWN_LABEL`.
        areas: float32 [n], COCO's `area`, else the box's.
        crowd: bool [n], COCO's `iscrowd`, VOC's `difficult`: ignored in evaluation, left out of training.

    Raises:
        ValueError: shapes or lengths do not fit together.
    """

    path: Path
    image_id: int
    size_hw: tuple[int, int]
    boxes_xyxy: NDArray[np.float32]
    labels: NDArray[np.int64]
    areas: NDArray[np.float32]
    crowd: NDArray[np.bool_]

    def __post_init__(self) -> None:
        boxes = np.asarray(self.boxes_xyxy, dtype=np.float32)
        if boxes.size == 0:
            boxes = boxes.reshape(0, 4)
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ValueError(f"boxes_xyxy must have shape [n, 4], got {list(boxes.shape)}")
        object.__setattr__(self, "boxes_xyxy", boxes)
        for name, dtype in (("labels", np.int64), ("areas", np.float32), ("crowd", np.bool_)):
            array = np.asarray(getattr(self, name), dtype=dtype)
            if array.shape != (len(boxes),):
                raise ValueError(f"{name} must have shape [{len(boxes)}], got {list(array.shape)}")
            object.__setattr__(self, name, array)

    def select(self, keep: NDArray[np.bool_]) -> ImageRecord:
        """The record with only the annotations where `keep` (bool [n]) is true."""
        return replace(
            self,
            boxes_xyxy=self.boxes_xyxy[keep],
            labels=self.labels[keep],
            areas=self.areas[keep],
            crowd=self.crowd[keep],
        )


@dataclass(frozen=True, eq=False)
class DetectionDataset:
    """Images with boxes and the classes they are of.

    Attributes:
        name: for messages, such as `bccd train+val`.
        class_names: one name a class, in label order.
        category_ids: the dataset's own id of each class (COCO's have gaps; VOC 1, 2, …; YOLO 0, 1, …).
        records: the images.

    Raises:
        DatasetError: no class, or the class list repeats an id.
    """

    name: str
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    records: tuple[ImageRecord, ...]

    def __post_init__(self) -> None:
        if not self.class_names:
            raise DatasetError(f"{self.name}: no classes; a dataset needs at least one class with a name")
        if len(self.class_names) != len(self.category_ids):
            raise ValueError(f"{len(self.class_names)} class_names but {len(self.category_ids)} category_ids")
        if len(set(self.category_ids)) != len(self.category_ids):
            raise DatasetError(f"{self.name}: category ids repeat in {list(self.category_ids)}")

    def __len__(self) -> int:
        return len(self.records)

    def fingerprint(self) -> str:
        """SHA-256 (lower-case hex) of class names, file names, image sizes and annotations.

        File names count from the folder that all images share, so a dataset keeps its fingerprint when it
        moves.
        """
        digest = hashlib.sha256(json.dumps([self.class_names, self.category_ids]).encode())
        paths = [record.path.absolute() for record in self.records]
        root = _common_folder(paths)
        for path, record in zip(paths, self.records, strict=True):
            where = path.relative_to(root).as_posix()
            digest.update(json.dumps([where, record.size_hw, len(record.labels)]).encode())
            digest.update(record.boxes_xyxy.astype("<f4").tobytes())
            digest.update(record.labels.astype("<i8").tobytes())
            digest.update(record.crowd.astype("u1").tobytes())
        return digest.hexdigest()


def _common_folder(paths: Sequence[Path]) -> Path:
    """The deepest folder that holds all paths."""
    if not paths:
        return Path()
    first = min(paths).parent.parts
    last = max(paths).parent.parts
    shared = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return Path(*first[:shared])


def box_areas(boxes_xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
    """Areas in square pixels, [n, 4] -> [n]; 0 for a box without extent."""
    sides = np.maximum(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2], 0)  # [n, 2]
    areas: NDArray[np.float32] = sides[:, 0] * sides[:, 1]
    return areas


def merge_datasets(name: str, parts: Sequence[DetectionDataset]) -> DetectionDataset:
    """All parts as one dataset: an image that is in several is taken once, from the first.

    The classes are the union, ordered by category id. Image ids stay unless parts reuse them; then the images
    are numbered 1, 2, ….

    Raises:
        DatasetError: two parts give one category id different names.
    """
    names_by_id: dict[int, str] = {}
    for part in parts:
        for category_id, class_name in zip(part.category_ids, part.class_names, strict=True):
            if names_by_id.setdefault(category_id, class_name) != class_name:
                raise DatasetError(
                    f"{name}: category id {category_id} is {names_by_id[category_id]!r} in {parts[0].name} "
                    f"but {class_name!r} in {part.name}; give all splits the same class list"
                )
    category_ids = tuple(sorted(names_by_id))
    label_of_id = {category_id: label for label, category_id in enumerate(category_ids)}
    merged: list[ImageRecord] = []
    for part in parts:
        # The last entry stands for UNKNOWN_LABEL, which is -1.
        relabel = np.array([*(label_of_id[i] for i in part.category_ids), UNKNOWN_LABEL], np.int64)
        earlier = {record.path for record in merged}
        merged += [replace(r, labels=relabel[r.labels]) for r in part.records if r.path not in earlier]
    if len({record.image_id for record in merged}) != len(merged):
        merged = [replace(record, image_id=i) for i, record in enumerate(merged, start=1)]
    return DetectionDataset(name, tuple(names_by_id[i] for i in category_ids), category_ids, tuple(merged))


def number_or_nan(value: Any) -> float:
    """An annotation's value as a number; NaN for what is missing or no number, for lint to name."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def size_hw_of(path: Path, height: Any = None, width: Any = None) -> tuple[int, int]:
    """The annotated size if it is one, else the image's own, else (0, 0): lint then names the image."""
    sides = number_or_nan(height), number_or_nan(width)
    if all(math.isfinite(side) and side >= 1 for side in sides):
        return int(sides[0]), int(sides[1])
    try:
        return image_size(path)
    except DatasetError:
        return 0, 0
