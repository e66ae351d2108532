"""A look at every image and box before training: what is unusable is named and left out, never changed on
disk."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ssd_edge.data.dataset import DetectionDataset, ImageRecord, box_areas
from ssd_edge.errors import DatasetError
from ssd_edge.images import image_size

EXAMPLES = 3  # names a kind that the report prints
ROUNDING_PIXELS = 1.0  # a box this far outside was rounded; it is clipped without a word
PROGRESS_IMAGES = 500  # more take long enough for a progress bar

# What is done about each kind, in the order of the report.
KINDS = {
    "missing image": "left out",
    "corrupt image": "left out",
    "image size differs from the annotation": "left out: its boxes cannot be trusted",
    "image without labels": "kept as background",
    "image without a usable box": "left out: it is no background either",
    "unknown class": "box left out",
    "box with NaN or infinity": "box left out",
    "degenerate box": "box left out: no width or height",
    "box outside the image": "box left out",
    "box partly outside": "clipped",
    "duplicate box": "kept once",
}


@dataclass(frozen=True)
class LintReport:
    """What lint found.

    Attributes:
        name: the dataset.
        images, boxes: how many are usable, and how many there were.
        findings: for each kind of `KINDS` that occurs, every place, such as `0012.jpg: RBC 3,4,3,9`.
    """

    name: str
    images: tuple[int, int]
    boxes: tuple[int, int]
    findings: dict[str, list[str]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Nothing to complain about."""
        return not self.findings

    def __str__(self) -> str:
        lines = [f"{self.name}: {_of(self.images)} images and {_of(self.boxes)} boxes are usable"]
        for kind, places in self.findings.items():
            more = ", …" if len(places) > EXAMPLES else ""
            lines.append(f"  {len(places):5d} × {kind} ({KINDS[kind]}): {', '.join(places[:EXAMPLES])}{more}")
        return "\n".join(lines)


def lint(dataset: DetectionDataset, *, strict: bool = False) -> tuple[DetectionDataset, LintReport]:
    """Check each image and box; give the usable part and a report of the rest.

    Every image is decoded, so that a broken one shows now and not in the middle of training.

    Raises:
        DatasetError: nothing usable remains, or `strict` and there is anything in the report.
    """
    findings: dict[str, list[str]] = {kind: [] for kind in KINDS}
    records = []
    for record, size_hw in zip(dataset.records, _sizes(dataset), strict=True):
        if (kept := _lint_record(record, size_hw, dataset.class_names, findings)) is not None:
            records.append(kept)
    usable = replace(dataset, records=tuple(records))
    report = LintReport(
        dataset.name,
        (len(usable), len(dataset)),
        (_box_count(usable), _box_count(dataset)),
        {kind: places for kind, places in findings.items() if places},
    )
    if not _box_count(usable):
        raise DatasetError(f"no image with a usable box remains\n{report}")
    if strict and not report.ok:
        raise DatasetError(f"the dataset is not clean; mend it, or go on without strict checking\n{report}")
    return usable, report


def _sizes(dataset: DetectionDataset) -> Iterable[tuple[int, int] | None]:
    """Size of each image as decoded, None for one that cannot be."""
    with ThreadPoolExecutor(2) as pool:  # OpenCV decodes outside of the interpreter's lock
        sizes = pool.map(_size_or_none, dataset.records)
        hide = len(dataset) <= PROGRESS_IMAGES
        yield from tqdm(sizes, "checking images", len(dataset), unit="image", leave=False, disable=hide)


def _size_or_none(record: ImageRecord) -> tuple[int, int] | None:
    try:
        return image_size(record.path)
    except DatasetError:
        return None  # reported by name as missing or corrupt


def _lint_record(
    record: ImageRecord,
    size_hw: tuple[int, int] | None,
    class_names: tuple[str, ...],
    findings: dict[str, list[str]],
) -> ImageRecord | None:
    """The usable part of an image's record, or None; adds to `findings`."""
    name = record.path.name
    if size_hw is None:
        findings["corrupt image" if os.path.isfile(record.path) else "missing image"].append(name)
        return None
    if size_hw != record.size_hw:
        (height, width), (said_height, said_width) = size_hw, record.size_hw
        place = f"{name}: is {width}×{height}, annotated {said_width}×{said_height}"
        findings["image size differs from the annotation"].append(place)
        return None
    if not len(record.labels):
        findings["image without labels"].append(name)
        return record
    clipped = _clip(record.boxes_xyxy, size_hw)
    problems = _box_problems(record, clipped)
    for kind, affected in problems.items():
        for index in np.flatnonzero(affected):
            label = record.labels[index]
            class_name = class_names[label] if label >= 0 else "?"
            corners = ",".join(f"{value:g}" for value in record.boxes_xyxy[index])
            findings[kind].append(f"{name}: {class_name} {corners}")
    left_out = [affected for kind, affected in problems.items() if kind != "box partly outside"]
    dropped = np.any(left_out, axis=0)  # [n]
    if dropped.all():
        findings["image without a usable box"].append(name)
        return None
    areas = np.minimum(record.areas, box_areas(clipped))
    return replace(record, boxes_xyxy=clipped, areas=areas).select(~dropped)


def _box_problems(record: ImageRecord, clipped: NDArray[np.float32]) -> dict[str, NDArray[np.bool_]]:
    """For each kind of problem, which boxes have it (bool [n]); a box has one at most."""
    boxes = record.boxes_xyxy
    finite = np.isfinite(boxes).all(axis=1)
    gone = (clipped[:, 2:] <= clipped[:, :2]).any(axis=1)  # [n]
    overhang = np.abs(boxes - clipped).max(axis=1) > ROUNDING_PIXELS
    tests = {
        "unknown class": record.labels < 0,
        "box with NaN or infinity": ~finite,
        "degenerate box": (boxes[:, 2:] <= boxes[:, :2]).any(axis=1),
        "box outside the image": gone,
        "duplicate box": _repeats(boxes, record.labels),
        "box partly outside": overhang,
    }
    free = np.ones(len(boxes), np.bool_)
    problems = {}
    for kind, test in tests.items():
        problems[kind] = test & free
        free &= ~test
    return problems


def _clip(boxes_xyxy: NDArray[np.float32], size_hw: tuple[int, int]) -> NDArray[np.float32]:
    height, width = size_hw
    return boxes_xyxy.clip(0, np.array([width, height, width, height], np.float32))


def _repeats(boxes_xyxy: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which boxes an earlier one of the same class equals (bool [n])."""
    _, first = np.unique(np.column_stack([boxes_xyxy, labels]), axis=0, return_index=True)
    repeats = np.ones(len(labels), np.bool_)
    repeats[first] = False
    return repeats


def _box_count(dataset: DetectionDataset) -> int:
    return sum(len(record.labels) for record in dataset.records)


def _of(usable_all: tuple[int, int]) -> str:
    usable, total = usable_all
    return f"all {total}" if usable == total else f"{usable} of {total}"
