"""COCO and Pascal VOC metrics of a detector on a dataset."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ssd_edge.choices import EVALUATION_BATCH
from ssd_edge.data.dataset import DetectionDataset, ImageRecord
from ssd_edge.detections import Detections
from ssd_edge.errors import DatasetError, UsageError
from ssd_edge.evaluation.coco_metrics import COCO_METRIC_NAMES, coco_metrics
from ssd_edge.evaluation.precision_recall import OperatingPoint
from ssd_edge.evaluation.voc_matching import NONE, Matches, match_boxes
from ssd_edge.images import load_image

if TYPE_CHECKING:
    from ssd_edge.runtime.backends.base import Detector

VOC_METRIC_NAMES = ("VOC07_AP50", "VOC_AP50")
METRIC_NAMES = COCO_METRIC_NAMES + VOC_METRIC_NAMES
LOADERS = 2  # threads that decode the next batch of images while the detector works on this one
NAME_WIDTH = 18  # of a class in the table, which then is 100 wide
HEADER_AGAIN = 30  # classes after which the table repeats its header above the totals


@dataclass(frozen=True)
class ClassMetrics:
    """Figures of one class, fractions 0–1; NaN where the dataset has no box of it to score.

    Attributes:
        ap, ap50, ap75: COCO's AP at IoU 0.50:0.95, 0.50 and 0.75.
        voc07_ap50, voc_ap50: Pascal VOC's AP at IoU 0.50: of 2007 (eleven recalls), and from 2010 on (area).
        boxes: annotated boxes to be found, without crowd and difficult ones.
        detections: detections of the class.
        best_f1: where the class reaches its best F1 at IoU 0.50, with its threshold, precision and recall.
    """

    ap: float
    ap50: float
    ap75: float
    voc07_ap50: float
    voc_ap50: float
    boxes: int
    detections: int
    best_f1: OperatingPoint

    def to_dict(self) -> dict[str, Any]:
        """The figures as in the JSON; NaN becomes None."""
        return {
            "AP": _json_number(self.ap),
            "AP50": _json_number(self.ap50),
            "AP75": _json_number(self.ap75),
            "VOC07_AP50": _json_number(self.voc07_ap50),
            "VOC_AP50": _json_number(self.voc_ap50),
            "boxes": self.boxes,
            "detections": self.detections,
            "best_f1": _json_point(self.best_f1),
        }


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measured. Figures are fractions, 0–1; NaN where there is no ground truth to score.

    Attributes:
        metrics: the twelve COCO metrics and Pascal VOC's two, by the names in `METRIC_NAMES`.
        per_class: metrics of each class scored, in the dataset's order.
        images: images scored.
        detections: detections scored.
        best_f1: where all classes together reach their best F1 at IoU 0.50.
        matches: which detection found which box at IoU 0.50.
        notes: what a reader has to know about the classes to read the figures.
    """

    metrics: dict[str, float]
    per_class: dict[str, ClassMetrics]
    images: int
    detections: int
    best_f1: OperatingPoint
    matches: Matches = field(repr=False, compare=False)
    notes: tuple[str, ...] = ()

    def table(self) -> str:
        """The figures as text, at most 100 wide: one line a class, the totals, then COCO's metrics in two groups."""
        width = min(max(map(len, (*self.per_class, "all"))), NAME_WIDTH)
        titles = ("AP", "AP50", "AP75", "VOC07", "VOC", "boxes", "found", "score", "prec.", "recall")
        header = f"{'class':<{width}}  " + "  ".join(f"{title:>6}" for title in titles)
        lines = [header]
        for name, one in self.per_class.items():
            aps = (one.ap, one.ap50, one.ap75, one.voc07_ap50, one.voc_ap50)
            lines.append(_row(name, width, aps, one.boxes, one.detections, one.best_f1))
        lines.append(header if len(self.per_class) > HEADER_AGAIN else "")
        means = [self.metrics[name] for name in ("AP", "AP50", "AP75", *VOC_METRIC_NAMES)]
        boxes = sum(one.boxes for one in self.per_class.values())
        lines += [_row("all", width, means, boxes, self.detections, self.best_f1), ""]
        for group in (COCO_METRIC_NAMES[:6], COCO_METRIC_NAMES[6:]):
            lines.append("  ".join(f"{name:>6}" for name in group))
            lines.append("  ".join(_figure(self.metrics[name]) for name in group))
        lines.append(f"\n{self.images} images, {self.detections} detections")
        lines.append("score: the threshold of the best F1, as for stream --score; precision and recall there, IoU 0.50")
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The figures as in the JSON; NaN becomes None."""
        return {
            "metrics": {name: _json_number(value) for name, value in self.metrics.items()},
            "per_class": {name: of_class.to_dict() for name, of_class in self.per_class.items()},
            "images": self.images,
            "detections": self.detections,
            "best_f1": _json_point(self.best_f1),
            "notes": list(self.notes),
        }

    def to_json(self) -> str:
        """The figures as JSON text; NaN becomes null."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=2)


def evaluate(
    detector: Detector,
    dataset: DetectionDataset,
    *,
    classes: Sequence[str] | None = None,
    batch: int = EVALUATION_BATCH,
    progress: bool = True,
) -> Evaluation:
    """Run `detector` over the images of `dataset` and score what it finds.

    Args:
        classes: score these classes only; all classes of the dataset when None.
        batch: images a call of the detector.
        progress: show a progress bar where standard error is a terminal.

    Raises:
        DatasetError, UsageError: as `evaluate_detections` and `detect`, before any image is read; an unreadable image.
    """
    scored_classes(dataset, detector.card.class_names, classes)
    detections = detect(detector, dataset, batch=batch, progress=progress)
    return evaluate_detections(detections, dataset, detector.card.class_names, classes=classes)


def detect(
    detector: Detector, dataset: DetectionDataset, *, batch: int = EVALUATION_BATCH, progress: bool = True
) -> list[Detections]:
    """The detections of every image of `dataset`, in its order; at most two batches of images are in memory.

    Raises:
        DatasetError: an image that cannot be read.
        UsageError: `batch` is below 1.
    """
    if batch < 1:
        raise UsageError(f"batch of {batch} images; expected at least 1")
    found: list[Detections] = []
    with tqdm(total=len(dataset), unit="image", leave=False, disable=None if progress else True) as bar:
        for frames in _loaded_batches(dataset.records, batch):
            found += detector(frames)
            bar.update(len(frames))
            del frames  # or it would stay in memory until the batch after the next is being loaded
    return found


def evaluate_detections(
    detections: Sequence[Detections],
    dataset: DetectionDataset,
    class_names: Sequence[str],
    *,
    classes: Sequence[str] | None = None,
) -> Evaluation:
    """Score detections against the boxes of `dataset`.

    Classes are matched by name. A class that only `class_names` has is left out; one that only the dataset
    has counts as never found (AP 0). A note says so in both cases.

    Boxes without a class or a finite position are left out; `ssd_edge.data.lint` names them.

    Args:
        detections: one an image, in the order of `dataset.records`; labels index `class_names`.
        classes: score these classes only; all classes of the dataset when None.

    Raises:
        DatasetError: no image, no class in common, or no box of the classes to score.
        UsageError: `classes` names one that the dataset does not have.
        ValueError: not one `Detections` an image.
    """
    if len(detections) != len(dataset):
        raise ValueError(f"expected one Detections for each of {len(dataset)} images, got {len(detections)}")
    scored, notes = scored_classes(dataset, class_names, classes)
    labels = tuple(dataset.class_names.index(name) for name in scored)
    label_of_class = [dataset.class_names.index(name) if name in scored else NONE for name in class_names]
    matches = match_boxes(detections, dataset, labels=labels, label_of_class=label_of_class)
    metrics, coco_ap = coco_metrics(dataset, matches.found, matches.scores, labels)
    per_class = {}
    for name, label in zip(scored, labels, strict=True):
        curve, coco = matches.curve(label), coco_ap[label]
        per_class[name] = ClassMetrics(
            ap=coco.ap,
            ap50=coco.ap50,
            ap75=coco.ap75,
            voc07_ap50=curve.voc07_ap(),
            voc_ap50=curve.voc_ap(),
            boxes=curve.truths,
            detections=int((matches.found.labels == label).sum()),
            best_f1=curve.best_f1(),
        )
    voc = {
        "VOC07_AP50": _mean([of_class.voc07_ap50 for of_class in per_class.values()]),
        "VOC_AP50": _mean([of_class.voc_ap50 for of_class in per_class.values()]),
    }
    return Evaluation(
        metrics=metrics | voc,
        per_class=per_class,
        images=len(dataset),
        detections=len(matches.found),
        best_f1=matches.curve().best_f1(),
        matches=matches,
        notes=notes,
    )


def scored_classes(
    dataset: DetectionDataset, class_names: Sequence[str], classes: Sequence[str] | None
) -> tuple[list[str], tuple[str, ...]]:
    """The dataset's classes to score, and notes on those that one side alone has.

    Raises:
        DatasetError: no image, no class in common, or no box of the classes to score.
        UsageError: `classes` names one that the dataset does not have.
    """
    if not len(dataset):
        raise DatasetError(f"{dataset.name}: no images to evaluate on; give a folder or split that has some")
    if unknown := sorted(set(classes or ()) - set(dataset.class_names)):
        raise UsageError(
            f"{dataset.name} has no class {', '.join(unknown)}; its classes are {', '.join(dataset.class_names)}"
        )
    scored = [name for name in dataset.class_names if classes is None or name in classes]
    if not set(scored) & set(class_names):
        raise DatasetError(
            f"{dataset.name}: no class in common; the dataset has {_shortened(scored)}, "
            f"the model knows {_shortened(class_names)}; names must match exactly"
        )
    labels = {label for label, name in enumerate(dataset.class_names) if name in scored}
    if not any(labels & set(record.labels[~record.crowd].tolist()) for record in dataset.records):
        raise DatasetError(f"{dataset.name}: no boxes of {_shortened(scored)}; there is nothing to score against")
    notes = []
    if never := [name for name in scored if name not in class_names]:
        notes.append(f"the model does not know {_shortened(never)}: counted as never found")
    if classes is None and (extra := [name for name in class_names if name not in dataset.class_names]):
        notes.append(f"the dataset does not have {_shortened(extra)}: left out")
    return scored, tuple(notes)


def _loaded_batches(records: Sequence[ImageRecord], size: int) -> Iterator[list[NDArray[np.uint8]]]:
    """The images of each batch, uint8 [H, W, 3] BGR; the next batch is decoded while the caller uses this one."""
    rest = iter(records)
    with ThreadPoolExecutor(LOADERS, thread_name_prefix="load") as pool:
        coming = deque(pool.submit(load_image, record.path) for record in islice(rest, size))
        try:
            while coming:
                frames = [coming.popleft().result() for _ in range(len(coming))]
                coming.extend(pool.submit(load_image, record.path) for record in islice(rest, size))
                yield frames
                del frames
        finally:  # an unreadable image, or a caller that ends early
            for future in coming:
                future.cancel()


def _row(name: str, width: int, aps: Sequence[float], boxes: int, detections: int, best: OperatingPoint) -> str:
    shown = name if len(name) <= width else f"{name[: width - 1]}…"
    cells = [*map(_figure, aps), f"{boxes:>6}", f"{detections:>6}", f"{_threshold(best.score):>6}"]
    return f"{shown:<{width}}  " + "  ".join([*cells, _figure(best.precision), _figure(best.recall)])


def _mean(values: Sequence[float]) -> float:
    """Mean of those that are not NaN."""
    measured = [value for value in values if not math.isnan(value)]
    return sum(measured) / len(measured) if measured else math.nan


def _json_point(point: OperatingPoint) -> dict[str, float | None]:
    values = {"score": point.score, "precision": point.precision, "recall": point.recall, "f1": point.f1}
    return {name: _json_number(value) for name, value in values.items()}


def _json_number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _figure(value: float) -> str:
    return f"{'–' if math.isnan(value) else f'{value:.3f}':>6}"


def _threshold(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def _shortened(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
