"""Which detection found which box, by the rules of Pascal VOC.

Everingham et al., "The Pascal Visual Object Classes (VOC) Challenge" (IJCV 2010), section 4.2, and the devkit's
`VOCevaldet.m`: from the highest score down, a detection belongs to the box of its class and image that it
overlaps most, where IoU is at least 0.5. The first one there is correct and any other is a false positive, even if it
overlaps a second box. What belongs to a `difficult` box counts neither way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssd_edge.data.dataset import DetectionDataset
from ssd_edge.detections import Detections
from ssd_edge.evaluation.precision_recall import PrecisionRecall

IOU_THRESHOLD = 0.5
NONE = -1  # no class to score, or no box


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes of all images of a dataset in one table.

    Attributes:
        images: int64 [n], index into `DetectionDataset.records`.
        boxes_xyxy: float64 [n, 4], in pixels.
        labels: int64 [n], index into `DetectionDataset.class_names`.
    """

    images: NDArray[np.int64]
    boxes_xyxy: NDArray[np.float64]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, keep: NDArray[np.bool_] | NDArray[np.int64]) -> Boxes:
        """Those that `keep` (a mask or indices) names."""
        return Boxes(self.images[keep], self.boxes_xyxy[keep], self.labels[keep])


@dataclass(frozen=True, eq=False)
class Matches:
    """Detections of n, and boxes of m, with what belongs together.

    Attributes:
        labels: the classes that are scored, index into `DetectionDataset.class_names`; boxes and detections are
            of these alone.
        truth: the annotated boxes [m].
        difficult: bool [m], the boxes that need not be found: VOC's `difficult`, COCO's `iscrowd`.
        found: the detections [n], highest score first; equal scores in the order of the images, then of the detector.
        scores: float32 [n], falling.
        truth_of_found: int64 [n], index of the box that a detection belongs to, or -1.
        correct: bool [n], the detections that found a box first.
        ignored: bool [n], the detections that count neither way.
    """

    labels: tuple[int, ...]
    truth: Boxes
    difficult: NDArray[np.bool_]
    found: Boxes
    scores: NDArray[np.float32]
    truth_of_found: NDArray[np.int64]
    correct: NDArray[np.bool_]
    ignored: NDArray[np.bool_]

    def curve(self, label: int | None = None) -> PrecisionRecall:
        """Precision and recall of one class; of all scored classes in one list when None."""
        counts, asked = ~self.ignored, ~self.difficult
        if label is not None:
            counts &= self.found.labels == label
            asked &= self.truth.labels == label
        return PrecisionRecall.of(self.scores[counts], self.correct[counts], int(asked.sum()))

    def correct_above(self, score: float) -> NDArray[np.bool_]:
        """bool [n]: correct detections with a score above `score`."""
        return self.correct & self._above(score)

    def false_above(self, score: float) -> NDArray[np.bool_]:
        """bool [n]: wrong and repeated detections with a score above `score`."""
        return ~self.correct & ~self.ignored & self._above(score)

    def missed_above(self, score: float) -> NDArray[np.bool_]:
        """bool [m]: boxes that no detection with a score above `score` has found."""
        missed = ~self.difficult
        missed[self.truth_of_found[self.correct_above(score)]] = False
        return missed

    def _above(self, score: float) -> NDArray[np.bool_]:
        return np.asarray(self.scores > np.float32(score))  # in float32, as the detector compares


def match_boxes(
    detections: Sequence[Detections],
    dataset: DetectionDataset,
    *,
    labels: Sequence[int],
    label_of_class: Sequence[int],
) -> Matches:
    """Match detections with the boxes of `dataset`.

    Boxes without a class or a finite position are left out; `ssd_edge.data.lint` names them.

    Args:
        detections: one an image, in the order of `dataset.records`.
        labels: the dataset's classes to score.
        label_of_class: the dataset's label of each class of the detector; -1 for one that is not scored.
    """
    records = dataset.records
    truth = _boxes([record.boxes_xyxy for record in records], np.concatenate([record.labels for record in records]))
    usable = np.isin(truth.labels, labels) & np.isfinite(truth.boxes_xyxy).all(axis=1)
    difficult = np.concatenate([record.crowd for record in records])[usable]
    truth = truth.select(usable)

    class_of_found = np.concatenate([found.labels for found in detections])
    found = _boxes([one.boxes_xyxy for one in detections], np.array(label_of_class, np.int64)[class_of_found])
    scores = np.concatenate([found.scores for found in detections])
    best_first = np.argsort(-scores, kind="stable")
    best_first = best_first[found.labels[best_first] != NONE]
    found, scores = found.select(best_first), scores[best_first]

    truth_of_found = _most_overlapped(found, truth, len(records))
    belongs = np.flatnonzero(truth_of_found != NONE)
    ignored = np.zeros(len(found), np.bool_)
    ignored[belongs] = difficult[truth_of_found[belongs]]
    claims = belongs[~ignored[belongs]]
    _, first = np.unique(truth_of_found[claims], return_index=True)  # highest score, as they are in that order
    correct = np.zeros(len(found), np.bool_)
    correct[claims[first]] = True
    return Matches(tuple(labels), truth, difficult, found, scores, truth_of_found, correct, ignored)


def rows_by_image(boxes: Boxes, images: int) -> list[NDArray[np.int64]]:
    """The indices of each image's boxes, in their order."""
    ends = np.cumsum(np.bincount(boxes.images, minlength=images))
    return np.split(np.argsort(boxes.images, kind="stable"), ends[:-1])


def box_iou(a_xyxy: NDArray[np.float64], b_xyxy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of each pair, [a, 4] and [b, 4] -> [a, b]; 0 for two boxes without extent."""
    top_left = np.maximum(a_xyxy[:, None, :2], b_xyxy[None, :, :2])
    bottom_right = np.minimum(a_xyxy[:, None, 2:], b_xyxy[None, :, 2:])
    intersection = np.maximum(bottom_right - top_left, 0).prod(axis=2)  # [a, b]
    area_a, area_b = (np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(axis=1) for boxes in (a_xyxy, b_xyxy))
    union = area_a[:, None] + area_b - intersection
    iou: NDArray[np.float64] = np.zeros_like(union)
    np.divide(intersection, union, out=iou, where=union > 0)
    return iou


def _boxes(boxes_xyxy: Sequence[NDArray[np.float32]], labels: NDArray[np.int64]) -> Boxes:
    """One table of what each image has."""
    images = np.repeat(np.arange(len(boxes_xyxy)), [len(boxes) for boxes in boxes_xyxy])
    return Boxes(images, np.concatenate(boxes_xyxy).astype(np.float64), labels)


def _most_overlapped(found: Boxes, truth: Boxes, images: int) -> NDArray[np.int64]:
    """For each detection the box of its image and class with the highest IoU, or -1 below the threshold."""
    best = np.full(len(found), NONE, np.int64)
    for rows, columns in zip(rows_by_image(found, images), rows_by_image(truth, images), strict=True):
        if not rows.size or not columns.size:
            continue
        iou = box_iou(found.boxes_xyxy[rows], truth.boxes_xyxy[columns])
        iou[found.labels[rows, None] != truth.labels[columns]] = 0
        most = iou.argmax(axis=1)  # the first of equals, as the devkit's loop
        near = iou[np.arange(len(rows)), most] >= IOU_THRESHOLD
        best[rows[near]] = columns[most[near]]
    return best
