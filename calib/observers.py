"""Running statistics of one tensor: what every calibration method needs, without keeping any activation."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

CHUNK = 1 << 16  # values binned at a time, so that the scratch buffers stay in the cache
SMALLEST_EXPONENT = -100  # of the histogram's range, so that its scale stays a float32


class TensorStatistics:
    """Running minimum, maximum, their moving averages, and one histogram, fed image by image.

    The histogram has `bins` bins of equal width on either side of zero and covers (-2**exponent, 2**exponent), the
    smallest power of two above every magnitude. When a larger value comes, the range doubles and neighbouring bins
    are merged. A value times a power of two is exact, and so is a merge; the counts are therefore those that one
    pass with the final range would give, in whatever order the images come. Only the moving averages depend on it.

    Attributes:
        bins: bins on each side of zero, a power of two.
        momentum: weight of the past in the moving averages, as 1 − `averaging_constant` of
            `torch.ao.quantization.MovingAverageMinMaxObserver`.
        count: values seen.
        zeros: how many of them are exactly zero; every scale represents those without error.
        minimum, maximum: of all values; 0 when there are none.
        average_minimum, average_maximum: moving averages of each image's minimum and maximum.
    """

    def __init__(self, *, bins: int = 4096, momentum: float = 0.9) -> None:
        self.bins = bins
        self.momentum = momentum
        self.count = 0
        self.zeros = 0
        self.minimum = self.maximum = 0.0
        self.average_minimum = self.average_maximum = 0.0
        self._exponent: int | None = None  # None until there is a value that is not zero
        # Entry `bins` counts magnitudes below one bin width, of both signs; entry 0 is not used.
        self._counts = np.zeros(2 * bins, np.int64)

    def update(self, values: NDArray[np.float32]) -> None:
        """Add one image's activations, of any shape.

        Raises:
            FloatingPointError: a value is NaN or infinite; nothing is added.
        """
        flat = np.ascontiguousarray(values, np.float32).reshape(-1)
        if not flat.size:
            return
        low, high = float(flat.min()), float(flat.max())  # NaN wins both
        if not (math.isfinite(low) and math.isfinite(high)):
            raise FloatingPointError("NaN" if np.isnan(flat).any() else "infinity")
        self._update_extremes(low, high)
        self.count += flat.size
        zeros = flat.size - int(np.count_nonzero(flat))
        self.zeros += zeros
        if zeros < flat.size:
            self._cover(max(-low, high))
            self._counts += self._binned(flat)
            self._counts[self.bins] -= zeros

    @property
    def bin_width(self) -> float:
        """Width of a bin, in the tensor's own unit; 0 when every value was zero."""
        return 0.0 if self._exponent is None else math.ldexp(1.0, self._exponent) / self.bins

    def density(self) -> NDArray[np.float64]:
        """Counts of the values that are not zero: float64 [2 · bins], from -bins · bin_width upwards.

        The two bins beside zero share what is nearer to zero than a bin width, unless all values have one sign.
        """
        counts = self._counts.astype(np.float64)
        near_zero = counts[self.bins]
        below = 0.0 if self.minimum >= 0 else 1.0 if self.maximum <= 0 else 0.5
        regular = np.empty_like(counts)
        # Truncation gives -j the values in (-(j + 1), -j] bin widths: the regular bin -(j + 1).
        regular[: self.bins - 1] = counts[1 : self.bins]
        regular[self.bins - 1] = below * near_zero
        regular[self.bins] = (1 - below) * near_zero
        regular[self.bins + 1 :] = counts[self.bins + 1 :]
        return regular

    def _update_extremes(self, low: float, high: float) -> None:
        if not self.count:
            self.minimum, self.maximum = low, high
            self.average_minimum, self.average_maximum = low, high
            return
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        self.average_minimum += (1 - self.momentum) * (low - self.average_minimum)
        self.average_maximum += (1 - self.momentum) * (high - self.average_maximum)

    def _cover(self, magnitude: float) -> None:
        """Double the range until it holds `magnitude`."""
        exponent = max(math.frexp(magnitude)[1], SMALLEST_EXPONENT)  # magnitude < 2**exponent
        if self._exponent is None:
            self._exponent = exponent
        elif exponent > self._exponent:
            self._counts = _merged(self._counts, exponent - self._exponent)
            self._exponent = exponent

    def _binned(self, flat: NDArray[np.float32]) -> NDArray[np.int64]:
        """Histogram of values within the range; an order of magnitude faster than np.histogram."""
        assert self._exponent is not None
        scale = np.float32(math.ldexp(self.bins, -self._exponent))
        scaled, indices = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.int64)
        counts = np.zeros_like(self._counts)
        for start in range(0, flat.size, CHUNK):
            chunk = flat[start : start + CHUNK]
            places = indices[: chunk.size]
            np.multiply(chunk, scale, out=scaled[: chunk.size])
            np.copyto(places, scaled[: chunk.size], casting="unsafe")  # truncates towards zero
            places += self.bins
            counts += np.bincount(places, minlength=len(counts))
        return counts


def _merged(counts: NDArray[np.int64], doublings: int) -> NDArray[np.int64]:
    """Counts [2 · bins] in bins that are 2**doublings times as wide."""
    bins = len(counts) // 2
    places = np.arange(2 * bins) - bins
    merged = np.zeros_like(counts)
    shift = min(doublings, 62)  # more than any number of bins has digits
    np.add.at(merged, np.sign(places) * (np.abs(places) >> shift) + bins, counts)
    return merged
