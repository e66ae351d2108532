"""COCO metrics of a detector on a dataset, by pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tqdm import tqdm

from ssd_edge.data.coco_json import bbox_xywh, coco_json
from ssd_edge.data.dataset import DetectionDataset, ImageRecord
from ssd_edge.detections import Detections
from ssd_edge.errors import DatasetError, UsageError
from ssd_edge.images import load_image

if TYPE_CHECKING:
    from ssd_edge.runtime.detector import Detector

# In the order of COCOeval.stats: https://cocodataset.org/#detection-eval
METRIC_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
_IOU_50 = 0  # index of IoU 0.50 in COCOeval's thresholds


@dataclass(frozen=True)
class ClassMetrics:
    """AP (IoU 0.50:0.95) and AP50 of one class; NaN where the dataset has no box of it."""

    ap: float
    ap50: float


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measured. Figures are fractions, 0–1; NaN where there is no ground truth to score.

    Attributes:
        metrics: the twelve COCO metrics, by the names in `METRIC_NAMES`.
        per_class: metrics of each class scored, in the dataset's order.
        images: images scored.
        detections: detections scored.
        notes: what a reader has to know about the classes to read the figures.
    """

    metrics: dict[str, float]
    per_class: dict[str, ClassMetrics]
    images: int
    detections: int
    notes: tuple[str, ...] = ()

    def table(self) -> str:
        """The figures as text: one line a class, then the twelve metrics in three lines."""
        width = max(map(len, (*self.per_class, "class")))
        lines = [f"{'class':<{width}}  {'AP':>6}  {'AP50':>6}"]
        lines += [
            f"{name:<{width}}  {_figure(of_class.ap)}  {_figure(of_class.ap50)}"
            for name, of_class in self.per_class.items()
        ]
        lines.append("")
        for group in (METRIC_NAMES[:6], METRIC_NAMES[6:]):
            lines.append("  ".join(f"{name:>6}" for name in group))
            lines.append("  ".join(_figure(self.metrics[name]) for name in group))
        lines.append(f"\n{self.images} images, {self.detections} detections")
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)

    def to_json(self) -> str:
        """The figures as JSON text; NaN becomes null."""
        return json.dumps(
            {
                "metrics": {name: _json_number(value) for name, value in self.metrics.items()},
                "per_class": {
                    name: {"AP": _json_number(of_class.ap), "AP50": _json_number(of_class.ap50)}
                    for name, of_class in self.per_class.items()
                },
                "images": self.images,
                "detections": self.detections,
                "notes": list(self.notes),
            },
            ensure_ascii=False,
            indent=2,
        )


def evaluate(
    detector: Detector,
    dataset: DetectionDataset,
    *,
    classes: Sequence[str] | None = None,
    batch: int = 8,
    progress: bool = True,
) -> Evaluation:
    """Run `detector` over the images of `dataset` and score what it finds.

    Args:
        classes: score these classes only; all classes of the dataset when None.
        batch: images a call of the detector.
        progress: show a progress bar where standard error is a terminal.

    Raises:
        DatasetError, UsageError: as `evaluate_detections`, before any image is read; an unreadable image.
    """
    scored_classes(dataset, detector.card.class_names, classes)
    detections = detect(detector, dataset, batch=batch, progress=progress)
    return evaluate_detections(detections, dataset, detector.card.class_names, classes=classes)


def detect(detector: Detector, dataset: DetectionDataset, *, batch: int = 8, progress: bool = True) -> list[Detections]:
    """The detections of every image of `dataset`, in its order."""
    found: list[Detections] = []
    with tqdm(total=len(dataset), unit="image", leave=False, disable=None if progress else True) as bar:
        for records in _batches(dataset.records, batch):
            found += detector([load_image(record.path) for record in records])
            bar.update(len(records))
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
    category_of = dict(zip(dataset.class_names, dataset.category_ids, strict=True))
    category_ids = [category_of[name] for name in scored]
    category_of_label = [category_of[name] if name in scored else None for name in class_names]
    truth = coco_json(dataset)
    results = _result_annotations(detections, dataset, category_of_label)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress with print
        coco_eval = COCOeval(_coco(truth), _coco({**truth, "annotations": results}), iouType="bbox")
        coco_eval.params.catIds = category_ids  # COCOeval sorts them when it evaluates
        coco_eval.evaluate()
        coco_eval.accumulate()
        coco_eval.summarize()
    precision = coco_eval.eval["precision"][..., 0, -1]  # [iou, recall, class]: all areas, 100 detections
    index_of = {category_id: index for index, category_id in enumerate(coco_eval.params.catIds)}
    per_class = {}
    for name, category_id in zip(scored, category_ids, strict=True):
        curves = precision[:, :, index_of[category_id]]  # [iou, recall]
        per_class[name] = ClassMetrics(_mean(curves), _mean(curves[_IOU_50]))
    return Evaluation(
        metrics={
            name: _nan_if_unmeasured(float(value)) for name, value in zip(METRIC_NAMES, coco_eval.stats, strict=True)
        },
        per_class=per_class,
        images=len(dataset),
        detections=len(results),
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


def _result_annotations(
    detections: Sequence[Detections], dataset: DetectionDataset, category_of_label: Sequence[int | None]
) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = []
    for record, found in zip(dataset.records, detections, strict=True):
        for box, score, label in found:
            category_id, bbox = category_of_label[label], bbox_xywh(box.tolist())
            if category_id is None:
                continue
            results.append(
                {
                    "id": len(results) + 1,
                    "image_id": record.image_id,
                    "category_id": category_id,
                    "bbox": bbox,
                    "area": bbox[2] * bbox[3],
                    "score": score,
                    "iscrowd": 0,
                }
            )
    return results


def _coco(content: dict[str, Any]) -> Any:
    """A pycocotools COCO object. `COCO.loadRes` is not used: it refuses an empty list."""
    coco = COCO()
    coco.dataset = content
    coco.createIndex()
    return coco


def _batches(records: Sequence[ImageRecord], size: int) -> Iterator[list[ImageRecord]]:
    rest = iter(records)
    while batch := list(islice(rest, size)):
        yield batch


def _mean(precision: np.ndarray[Any, Any]) -> float:
    """Mean over what COCOeval filled in; it marks the rest with -1."""
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else math.nan


def _nan_if_unmeasured(value: float) -> float:
    return math.nan if value == -1 else value  # -1 is COCOeval's mark for "no ground truth"


def _json_number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _figure(value: float) -> str:
    return f"{'–' if math.isnan(value) else f'{value:.3f}':>6}"


def _shortened(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
