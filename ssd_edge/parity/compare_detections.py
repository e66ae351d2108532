"""Which detections of a model are those of the reference, which it misses and which it has besides."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssd_edge.detections import Detections
from ssd_edge.evaluation.voc_matching import box_iou

PAIR_IOU = 0.5  # of two boxes that can be the same detection
SHIFTED_IOU = 0.75  # below it a pair counts as shifted: COCO's AP75 would tell the two apart


@dataclass(frozen=True, eq=False)
class ImagePairs:
    """One image's detections above the score, side by side.

    Attributes:
        reference, model: their detections above the score, best first.
        missed: bool [reference], without a partner above the score.
        extra: bool [model], without a partner above the score.
        edge: of `missed` and `extra` together, how many do have a partner, which the score divides from them by no
            more than the tolerance.
        shifted_reference, shifted_model: bool, in a pair with an IoU below `SHIFTED_IOU`.
        score_apart: [pairs], absolute differences of the scores of pairs with at least one above the score.
        iou: [pairs], of the same pairs.
    """

    reference: Detections
    model: Detections
    missed: NDArray[np.bool_]
    extra: NDArray[np.bool_]
    edge: int
    shifted_reference: NDArray[np.bool_]
    shifted_model: NDArray[np.bool_]
    score_apart: NDArray[np.float64]
    iou: NDArray[np.float64]

    @property
    def badness(self) -> float:
        """How much worse than another image this one is: lost and false scores, differences of scores and places."""
        lost = float(self.reference.scores[self.missed].sum() + self.model.scores[self.extra].sum())
        return lost + float(self.score_apart.sum() + (1 - self.iou).sum())


@dataclass(frozen=True)
class DetectionsDifference:
    """Counts over all images, of detections above `score`.

    Attributes:
        score: the operating threshold.
        reference, model: detections of each.
        missed: the reference's that the model does not have above the score.
        extra: the model's that the reference does not have above it.
        edge: of those two, how many sit on the edge of the score: both models have them, with scores apart by no more
            than the tolerance.
        shifted: pairs with an IoU below `SHIFTED_IOU`.
        score_max, score_mean: absolute differences of the scores of pairs; 0 without any.
        iou_min, iou_mean: of pairs; 1 without any.
    """

    score: float
    reference: int
    model: int
    missed: int
    extra: int
    edge: int
    shifted: int
    score_max: float
    score_mean: float
    iou_min: float
    iou_mean: float

    @property
    def different(self) -> int:
        """What differs for more than the edge of a threshold."""
        return self.missed + self.extra + self.shifted - self.edge


class RunningDetections:
    """Adds up `ImagePairs`."""

    def __init__(self, score: float) -> None:
        self._score = score
        self._reference = self._model = self._missed = self._extra = self._edge = self._shifted = self._pairs = 0
        self._score_max = self._score_sum = self._iou_sum = 0.0
        self._iou_min = 1.0

    def update(self, pairs: ImagePairs) -> None:
        self._reference += len(pairs.reference)
        self._model += len(pairs.model)
        self._missed += int(pairs.missed.sum())
        self._extra += int(pairs.extra.sum())
        self._edge += pairs.edge
        self._shifted += int(pairs.shifted_reference.sum())
        self._pairs += len(pairs.iou)
        self._score_max = max(self._score_max, float(pairs.score_apart.max(initial=0)))
        self._score_sum += float(pairs.score_apart.sum())
        self._iou_min = min(self._iou_min, float(pairs.iou.min(initial=1)))
        self._iou_sum += float(pairs.iou.sum())

    def result(self) -> DetectionsDifference:
        """The counts so far."""
        return DetectionsDifference(
            score=self._score,
            reference=self._reference,
            model=self._model,
            missed=self._missed,
            extra=self._extra,
            edge=self._edge,
            shifted=self._shifted,
            score_max=self._score_max,
            score_mean=self._score_sum / self._pairs if self._pairs else 0.0,
            iou_min=self._iou_min,
            iou_mean=self._iou_sum / self._pairs if self._pairs else 1.0,
        )


def pair_detections(reference: Detections, model: Detections, *, score: float, edge: float) -> ImagePairs:
    """Pair the detections of one image, one to one within a class, those that overlap most first.

    Those above the score are paired with each other first. What is left of them may then find a partner that fell
    below the score.

    Args:
        score: the operating threshold.
        edge: difference of scores up to which a detection that only one has above `score` sits on the edge.
    """
    above_r, above_m = reference.scores > np.float32(score), model.scores > np.float32(score)
    rows, columns, iou = _pairs(reference, model, above_r, above_m)
    both = above_r[rows] & above_m[columns]
    shifted = both & (iou < SHIFTED_IOU)
    score_apart = np.abs(reference.scores[rows].astype(np.float64) - model.scores[columns])
    return ImagePairs(
        reference=reference.above(score),
        model=model.above(score),
        missed=~_mask(len(reference), rows[both])[above_r],
        extra=~_mask(len(model), columns[both])[above_m],
        edge=int((~both & (score_apart <= edge)).sum()),
        shifted_reference=_mask(len(reference), rows[shifted])[above_r],
        shifted_model=_mask(len(model), columns[shifted])[above_m],
        score_apart=score_apart,
        iou=iou,
    )


def _pairs(
    reference: Detections, model: Detections, above_r: NDArray[np.bool_], above_m: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """(index of the reference's, index of the model's, IoU) of each pair with at least one above the score."""
    iou = box_iou(reference.boxes_xyxy.astype(np.float64), model.boxes_xyxy.astype(np.float64))
    iou[reference.labels[:, None] != model.labels] = 0
    rows, columns = np.nonzero((iou >= PAIR_IOU) & (above_r[:, None] | above_m))
    both = above_r[rows] & above_m[columns]
    free_rows, free_columns = set(rows.tolist()), set(columns.tolist())
    taken = []
    for place in np.lexsort((-iou[rows, columns], ~both)).tolist():  # stable: equals in order of the scores
        row, column = int(rows[place]), int(columns[place])
        if row in free_rows and column in free_columns:
            free_rows.remove(row)
            free_columns.remove(column)
            taken.append(place)
    chosen = np.array(taken, np.int64)
    rows, columns = rows[chosen], columns[chosen]
    return rows, columns, iou[rows, columns]


def _mask(length: int, indices: NDArray[np.int64]) -> NDArray[np.bool_]:
    mask = np.zeros(length, np.bool_)
    mask[indices] = True
    return mask
