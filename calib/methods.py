"""From a tensor's statistics to its range: min-max, moving average, percentile, entropy and mean squared error.

Every range holds zero, which padding and ReLU need exact, and none reaches beyond the values that were seen.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ssd_edge.calib.observers import TensorStatistics
from ssd_edge.calib.table import CalibrationSettings
from ssd_edge.choices import METHODS

Range = tuple[float, float]

LEVELS = 256  # of 8 bits
KL_LEVELS = 128  # of a magnitude in signed 8 bits
# A tensor that is zero throughout; its scale must still be one, and not so small that a bias, counted in
# activation scale × weight scale, leaves 32 bits.
EMPTY_RANGE = (0.0, 0.01)
NEGLIGIBLE = 1e-6  # an extent below it is taken for zero
# What the MSE search multiplies thresholds by: over ten octaves, and about the best so far.
COARSE = np.exp2(-np.arange(81) / 8)
FINE = np.exp2(np.linspace(-1, 1, 17) / 8)
MSE_ROUNDS = 4  # of improving one end of the range while the other stands


def all_ranges(statistics: TensorStatistics, settings: CalibrationSettings) -> dict[str, Range]:
    """(low, high) by each of `ssd_edge.choices.METHODS`."""
    return {method: range_by(method, statistics, settings) for method in METHODS}


def range_by(method: str, statistics: TensorStatistics, settings: CalibrationSettings) -> Range:
    """(low, high) by one method, cut to the values seen, zero in it; `EMPTY_RANGE` when nothing is left."""
    lowest, highest = _minmax(statistics)
    if highest - lowest < NEGLIGIBLE:
        return EMPTY_RANGE
    if method == "percentile":
        low, high = percentile_range(statistics, settings.percentile)
    else:
        low, high = _PARAMETERLESS[method](statistics)
    low, high = max(min(0.0, float(low)), lowest), min(max(0.0, float(high)), highest)
    return (low, high) if high - low >= NEGLIGIBLE else EMPTY_RANGE


def _minmax(statistics: TensorStatistics) -> Range:
    return min(0.0, statistics.minimum), max(0.0, statistics.maximum)


def minmax_range(statistics: TensorStatistics) -> Range:
    """The smallest and the largest value of all images."""
    return statistics.minimum, statistics.maximum


def moving_average_range(statistics: TensorStatistics) -> Range:
    """Moving averages of each image's smallest and largest value.

    As `torch.ao.quantization.MovingAverageMinMaxObserver`, each image being a batch.
    """
    return statistics.average_minimum, statistics.average_maximum


def percentile_range(statistics: TensorStatistics, percentile: float) -> Range:
    """The range that leaves out 100 − `percentile` percent of all values, zeros included.

    Half of them at either end when the tensor has both signs, else all at the far end. Interpolated within a bin.
    """
    tail = (1 - percentile / 100) * statistics.count
    if statistics.minimum < 0 < statistics.maximum:
        tail /= 2
    density, bins = statistics.density(), statistics.bins
    high = _tail_start(density[bins:], tail) * statistics.bin_width
    low = -_tail_start(density[:bins][::-1], tail) * statistics.bin_width
    return low, high


def _tail_start(counts: NDArray[np.float64], tail: float) -> float:
    """Where the last `tail` values begin, in bins from the first bin's start."""
    beyond = np.concatenate([np.cumsum(counts[::-1])[::-1], [0.0]])  # [bins + 1], values beyond each edge
    last = int(np.flatnonzero(beyond > tail)[-1]) if beyond[0] > tail else -1
    if last < 0:
        return 0.0
    return last + float((beyond[last] - tail) / counts[last])


def entropy_range(statistics: TensorStatistics) -> Range:
    """The threshold of the magnitude whose 128 levels lose the least information (Kullback-Leibler divergence).

    S. Migacz, "8-bit inference with TensorRT", GTC 2017, pages 38-42. Two details as in NVIDIA's
    pytorch-quantization (`calib/histogram.py`, `_compute_amax_entropy`): values that are exactly zero, half of a
    ReLU's, do not count, for no threshold loses them; and where several thresholds are best, the largest is taken.
    """
    density, bins = statistics.density(), statistics.bins
    magnitudes = density[bins:] + density[:bins][::-1]
    threshold = kl_threshold_bins(magnitudes) * statistics.bin_width
    return -threshold, threshold


def kl_threshold_bins(counts: NDArray[np.float64]) -> int:
    """How many of the first bins to keep, from `KL_LEVELS` on, for the smallest divergence.

    For each candidate, P is its bins with all that lies beyond added to the last, Q the same bins without that,
    averaged over the non-empty bins of each of 128 levels. Both have few terms once summed by level:
    KL(P, Q) = Σ P log P − Σ P log Q, where Q is constant in a level. An empty last bin that takes in outliers has
    P > 0 where Q = 0, which no divergence allows; it counts as holding one value. To rule such candidates out would
    leave the full range alone to choose whenever one outlier stands far off.

    Args:
        counts: float64 [bins], of magnitudes; zeros left out.
    """
    used = int(np.flatnonzero(counts)[-1]) + 1 if counts.any() else 0
    if used <= KL_LEVELS:
        return used
    counts = counts[:used]
    kept = np.arange(KL_LEVELS, used + 1)  # [candidates]
    # Level j of candidate i holds the bins from j·i/128, rounded up, to the next level's first.
    edges = -(-np.arange(KL_LEVELS + 1) * kept[:, None] // KL_LEVELS)  # [candidates, levels + 1]
    level_counts = np.diff(_running_sum(counts)[edges])  # [candidates, levels]
    level_bins = np.diff(_running_sum(counts > 0)[edges])
    with np.errstate(divide="ignore", invalid="ignore"):
        log_mean = np.log(level_counts / level_bins)
        p_log_q = np.where(level_counts > 0, level_counts * log_mean, 0).sum(axis=1)
        last = counts[kept - 1]
        inside = level_counts.sum(axis=1)
        outliers = counts.sum() - inside
        outliers[-1] = 0  # exactly, whatever the rounding
        p_log_q += outliers * np.where(last > 0, log_mean[:, -1], 0)  # log of one value is 0
    p_log_p = _running_sum(_x_log_x(counts))[kept - 1] + _x_log_x(last + outliers)
    total = counts.sum()
    # P is counts / total and Q is counts / inside, whence the two logarithms.
    divergence = (p_log_p - p_log_q) / total - np.log(total) + np.log(np.maximum(inside, 1e-300))
    divergence[np.isnan(divergence) | (inside <= 0)] = np.inf
    return int(kept[np.flatnonzero(divergence <= divergence.min() + 1e-12)[-1]])


def _running_sum(values: NDArray[np.float64] | NDArray[np.bool_]) -> NDArray[np.float64]:
    """[n] -> [n + 1]: the sum of the first 0, 1, …, n."""
    return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])


def _x_log_x(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(values * np.log(np.where(values > 0, values, 1)))


def mse_range(statistics: TensorStatistics) -> Range:
    """The range whose 8 bits have the smallest mean squared error, rounding and clipping together.

    The error is exact for values that are spread evenly within each bin. The 256 levels lie evenly over the range,
    shifted so that zero is one of them, as in unsigned quantisation with a zero point. Symmetric quantisation of a
    tensor with both signs comes close to that; of one without negative values it has half the levels, and would
    clip a little more. Symmetric thresholds are tried first, then each end in turn.
    """
    lowest, highest = _minmax(statistics)
    moments = Moments(statistics)
    thresholds = max(-lowest, highest) * COARSE
    best = moments.best_range(np.maximum(-thresholds, lowest), np.minimum(thresholds, highest))
    for _ in range(MSE_ROUNDS):
        low, high = best
        highs = _ends(high, highest)
        _, high = moments.best_range(np.full_like(highs, low), highs)
        lows = _ends(low, lowest)
        low, _ = moments.best_range(lows, np.full_like(lows, high))
        if (low, high) == best:
            break
        best = low, high
    return best


def _ends(end: float, limit: float) -> NDArray[np.float64]:
    """Candidates for one end of a range, of which `limit` is the farthest; the present one among them."""
    near = np.clip(end * FINE, min(limit, 0), max(limit, 0))
    return np.concatenate([[end], limit * COARSE, near])


class Moments:
    """Sums of 1, x and x² over all values below a position, each bin's values being spread evenly over it."""

    def __init__(self, statistics: TensorStatistics) -> None:
        self.counts = statistics.density()
        self.width = statistics.bin_width
        self.start = -statistics.bins * self.width
        middles = self.start + (np.arange(len(self.counts)) + 0.5) * self.width
        self.below = [
            _running_sum(self.counts),
            _running_sum(self.counts * middles),
            _running_sum(self.counts * (middles**2 + self.width**2 / 12)),
        ]

    def best_range(self, lows: NDArray[np.float64], highs: NDArray[np.float64]) -> Range:
        """The pair of [candidates] and [candidates] with the smallest error; the first of several."""
        best = int(self.squared_error(lows, highs).argmin())
        return float(lows[best]), float(highs[best])

    def squared_error(self, lows: NDArray[np.float64], highs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum over all values of the squared error of 8 bits, [candidates]; the values beyond are clipped."""
        steps = ((highs - lows) / (LEVELS - 1))[:, None]  # [candidates, 1]
        levels = (np.arange(LEVELS) + np.rint(lows[:, None] / steps)) * steps  # [candidates, levels]
        zero, one, two = self._between(levels[:, :-1] + steps / 2)
        return np.asarray((two - 2 * levels * one + levels**2 * zero).sum(axis=1))

    def _between(self, bounds: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """Each sum over the values before, between and after ascending bounds, [candidates, bounds + 1]."""
        places = np.clip((bounds - self.start) / self.width, 0, len(self.counts))  # in bins
        bins = np.minimum(places.astype(np.int64), len(self.counts) - 1)
        left = self.start + bins * self.width
        right = self.start + places * self.width
        each = self.counts[bins] / self.width
        parts = (right - left, (right**2 - left**2) / 2, (right**3 - left**3) / 3)
        sums = []
        for below, part in zip(self.below, parts, strict=True):
            at_bounds = below[bins] + each * part
            ends = np.zeros((len(bounds), 1)), np.full((len(bounds), 1), below[-1])
            sums.append(np.diff(np.concatenate([ends[0], at_bounds, ends[1]], axis=1), axis=1))
        return sums


_PARAMETERLESS: dict[str, Callable[[TensorStatistics], Range]] = {
    "minmax": minmax_range,
    "moving_average": moving_average_range,
    "entropy": entropy_range,
    "mse": mse_range,
}
