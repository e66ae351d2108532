"""Precision and recall as the score threshold falls, and the figures read off that curve."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Exactly the tenths: 0.1 × 3 is more than 3/10, and a recall of 3/10 would miss it.
VOC07_RECALLS = np.arange(11) / 10
# Thresholds as people type them, in float32 as detectors compare.
SCORE_STEPS = (np.arange(100) / 100).astype(np.float32)


@dataclass(frozen=True)
class OperatingPoint:
    """What detections with a score above `score` reach; NaN where that is not defined."""

    score: float
    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total > 0 else math.nan


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """A precision–recall curve, one point a detection, highest score first.

    Attributes:
        scores: float32 [n], falling.
        correct: bool [n], the detections that found a box.
        truths: boxes to be found.
        precision: float64 [n], share of the detections up to here that are correct.
        recall: float64 [n], share of the boxes that are found up to here; NaN where there is none.
    """

    scores: NDArray[np.float32]
    correct: NDArray[np.bool_]
    truths: int
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]

    @classmethod
    def of(cls, scores: NDArray[np.float32], correct: NDArray[np.bool_], truths: int) -> PrecisionRecall:
        """The curve of detections that are sorted by falling score."""
        hits = np.cumsum(correct)
        recall = hits / truths if truths else np.full(len(hits), math.nan)
        return cls(scores, correct, truths, hits / np.arange(1, len(hits) + 1), recall)

    def envelope(self) -> NDArray[np.float64]:
        """Interpolated precision [n]: the highest at this recall or any higher one."""
        rising = np.maximum.accumulate(self.precision[::-1])
        return rising[::-1]

    def envelope_at(self, recalls: NDArray[np.float64]) -> NDArray[np.float64]:
        """Interpolated precision where recall first reaches each of `recalls`; 0 where it never does."""
        first = np.searchsorted(self.recall, recalls)
        return np.append(self.envelope(), 0.0)[first]

    def voc07_ap(self) -> float:
        """AP of Pascal VOC 2007: mean interpolated precision at recall 0, 0.1, …, 1; NaN without boxes."""
        return float(self.envelope_at(VOC07_RECALLS).mean()) if self.truths else math.nan

    def voc_ap(self) -> float:
        """AP of Pascal VOC from 2010 on: the area below the interpolated curve; NaN without boxes."""
        # Recall rises by 1/truths at each correct detection and nowhere else.
        return float(self.envelope()[self.correct].sum() / self.truths) if self.truths else math.nan

    def at(self, score: float) -> OperatingPoint:
        """The point that a score threshold gives."""
        kept = self._kept(np.float32(score))
        if not kept:
            return OperatingPoint(score, math.nan, 0.0 if self.truths else math.nan)
        return OperatingPoint(score, float(self.precision[kept - 1]), float(self.recall[kept - 1]))

    def best_f1(self) -> OperatingPoint:
        """The point with the highest F1, of the thresholds 0.00, 0.01, …, 0.99; NaN where nothing is found.

        Where several thresholds reach it, the middle one: the farthest from losing it.
        """
        kept = self._kept(SCORE_STEPS)
        hits = np.append(0, np.cumsum(self.correct))[kept]
        if not hits.any() or not self.truths:
            return OperatingPoint(math.nan, math.nan, math.nan)
        f1 = 2 * hits / (kept + self.truths)
        best = np.flatnonzero(f1 == f1.max())
        return self.at(round(float(SCORE_STEPS[best[len(best) // 2]]), 2))

    def _kept(self, score: NDArray[np.float32] | np.float32) -> NDArray[np.int64]:
        """How many detections have a score above `score`."""
        return np.asarray(np.searchsorted(-self.scores, -score))
