"""How far one tensor is from another, summed up over any number of images in a fixed amount of memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Differences are counted in bins by the upper bits of their float32: exponent and five bits of the mantissa. Bins rise
# with the value, 32 to the octave, so none is wider than 3.2 % of it.
DROPPED_BITS = 18
BINS = 1 << (31 - DROPPED_BITS)
PERCENTILE = 0.999


@dataclass(frozen=True)
class Difference:
    """What `RunningDifference` has seen. NaN where no number was finite in both.

    Attributes:
        values: numbers compared.
        non_finite: of them, those that are infinite or NaN on either side; they enter nothing else.
        max, mean: of the absolute difference.
        p999: 99.9th percentile of the absolute difference, as the upper edge of a bin: at most 3.2 % too large.
        max_scaled: largest absolute difference, divided by the reference's value where that is above the unit and by
            the unit elsewhere.
        cosine: cosine similarity of all reference values with all of the model's.
        snr_db: signal-to-noise ratio: the reference's variance over the mean squared difference, 10·log10; infinite
            where all values are equal.
    """

    values: int
    non_finite: int
    max: float
    mean: float
    p999: float
    max_scaled: float
    cosine: float
    snr_db: float


class RunningDifference:
    """Compares pairs of tensors; its memory does not grow with their number.

    Args:
        unit: below it, a difference is absolute in `Difference.max_scaled`; above it, relative.
    """

    def __init__(self, unit: float) -> None:
        self._unit = unit
        self._histogram = np.zeros(BINS, np.int64)
        self._values = self._non_finite = 0
        self._max = self._max_scaled = 0.0
        self._sum_apart = self._sum_apart_squared = 0.0
        self._sum_reference = self._sum_reference_squared = self._sum_model_squared = self._sum_product = 0.0

    def update(self, reference: NDArray[np.float32], model: NDArray[np.float32]) -> None:
        """Add two tensors of one shape, any shape.

        Raises:
            ValueError: their shapes differ.
        """
        if reference.shape != model.shape:
            raise ValueError(f"shapes {list(reference.shape)} and {list(model.shape)} cannot be compared")
        a, b = reference.astype(np.float64).ravel(), model.astype(np.float64).ravel()
        self._values += a.size
        with np.errstate(invalid="ignore"):
            apart = np.abs(a - b)
        if not np.isfinite(apart.sum()):
            finite = np.isfinite(a) & np.isfinite(b)
            self._non_finite += int(a.size - finite.sum())
            a, b, apart = a[finite], b[finite], apart[finite]
        if not a.size:
            return
        self._max = max(self._max, float(apart.max()))
        self._max_scaled = max(self._max_scaled, self._scaled(a, apart))
        self._histogram += np.bincount(_bins(apart), minlength=BINS)
        self._sum_apart += float(apart.sum())
        self._sum_apart_squared += float(apart @ apart)
        self._sum_reference += float(a.sum())
        self._sum_reference_squared += float(a @ a)
        self._sum_model_squared += float(b @ b)
        self._sum_product += float(a @ b)

    def result(self) -> Difference:
        """The figures so far."""
        count = self._values - self._non_finite
        if not count:
            nan = math.nan
            return Difference(self._values, self._non_finite, nan, nan, nan, nan, nan, nan)
        return Difference(
            values=self._values,
            non_finite=self._non_finite,
            max=self._max,
            mean=self._sum_apart / count,
            p999=self._percentile(count),
            max_scaled=self._max_scaled,
            cosine=self._cosine(),
            snr_db=self._snr_db(count),
        )

    def _scaled(self, reference: NDArray[np.float64], apart: NDArray[np.float64]) -> float:
        size = np.abs(reference)
        if size.max() <= self._unit:  # as scores are: nothing to divide one by one
            return float(apart.max()) / self._unit
        return float((apart / np.maximum(self._unit, size)).max())

    def _percentile(self, count: int) -> float:
        place = int(np.searchsorted(np.cumsum(self._histogram), math.ceil(PERCENTILE * count)))
        edge = float(np.int32((place + 1) << DROPPED_BITS).view(np.float32)) if place < BINS - 1 else math.inf
        return min(edge, self._max)

    def _cosine(self) -> float:
        if self._sum_apart_squared == 0:
            return 1.0
        lengths = math.sqrt(self._sum_reference_squared) * math.sqrt(self._sum_model_squared)
        return self._sum_product / lengths if lengths > 0 else 0.0

    def _snr_db(self, count: int) -> float:
        if self._sum_apart_squared == 0:
            return math.inf
        signal = self._sum_reference_squared - self._sum_reference**2 / count
        return 10 * math.log10(signal / self._sum_apart_squared) if signal > 0 else -math.inf


def _bins(apart: NDArray[np.float64]) -> NDArray[np.int32]:
    with np.errstate(over="ignore"):
        bits = apart.astype(np.float32).view(np.int32)
    bins: NDArray[np.int32] = bits >> DROPPED_BITS
    return bins
