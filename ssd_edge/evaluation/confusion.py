"""What each class is taken for, at one score threshold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssd_edge.evaluation.voc_matching import IOU_THRESHOLD, NONE, Boxes, Matches, box_iou, rows_by_image


@dataclass(frozen=True, eq=False)
class Confusion:
    """Boxes by what they are and what they were taken for.

    Attributes:
        class_names: of the scored classes; the background comes after them and has no name here.
        counts: int64 [classes + 1, classes + 1]; a row a class of the annotated boxes, a column a class of the
            detections. The last column counts missed boxes, the last row detections where nothing is annotated
            and repeated ones.
        score: detections with a score above it are counted.
    """

    class_names: tuple[str, ...]
    counts: NDArray[np.int64]
    score: float

    def shares(self) -> NDArray[np.float64]:
        """Each row divided by its sum; NaN where that is 0. On the diagonal: recall."""
        sums = self.counts.sum(axis=1, keepdims=True)
        shares: NDArray[np.float64] = np.full(self.counts.shape, np.nan)
        np.divide(self.counts, sums, out=shares, where=sums > 0)
        return shares


def confusion(matches: Matches, class_names: tuple[str, ...], *, score: float) -> Confusion:
    """Count what the boxes of each class were taken for.

    The diagonal is what Pascal VOC's matching calls correct, so precision and recall are those of the curves.
    A missed box is then taken for the class of the unmatched detection that overlaps it most, from IoU 0.5 up; the
    pairs of an image are taken in the order of their IoU, each box and detection once.

    Args:
        class_names: all classes of the dataset.
    """
    background = len(matches.labels)
    index_of = np.full(len(class_names), background)
    index_of[list(matches.labels)] = np.arange(background)
    counts = np.zeros((background + 1, background + 1), np.int64)

    correct = index_of[matches.found.labels[matches.correct_above(score)]]
    np.add.at(counts, (correct, correct), 1)

    false = matches.found.select(matches.false_above(score))
    missed = matches.truth.select(matches.missed_above(score))
    repeated = matches.truth_of_found[matches.false_above(score)] != NONE
    seen_as = _seen_as(missed, false, ~repeated)
    taken = seen_as[seen_as != NONE]
    columns = np.full(len(missed), background)
    columns[seen_as != NONE] = index_of[false.labels[taken]]
    np.add.at(counts, (index_of[missed.labels], columns), 1)
    left = np.delete(false.labels, taken)
    np.add.at(counts, (np.full(len(left), background), index_of[left]), 1)
    return Confusion(tuple(class_names[label] for label in matches.labels), counts, score)


def _seen_as(missed: Boxes, false: Boxes, free: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For each missed box [m] the false detection that was made of it, of those that are `free`; -1 for none."""
    seen_as = np.full(len(missed), NONE, np.int64)
    images = 1 + max(missed.images.max(initial=-1), false.images.max(initial=-1))
    for rows, columns in zip(rows_by_image(missed, images), rows_by_image(false, images), strict=True):
        columns = columns[free[columns]]
        iou = box_iou(missed.boxes_xyxy[rows], false.boxes_xyxy[columns])
        falling = np.argsort(-iou, axis=None, kind="stable")[: int((iou >= IOU_THRESHOLD).sum())]
        used = set[int]()
        for row, column in zip(*np.unravel_index(falling, iou.shape), strict=True):
            if seen_as[rows[row]] == NONE and column not in used:
                seen_as[rows[row]] = columns[column]
                used.add(column)
    return seen_as
