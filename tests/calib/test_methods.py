"""Ranges by each method: hand-checked ones, published ones, and those that brute force finds."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from ssd_edge.calib.methods import (
    EMPTY_RANGE,
    KL_LEVELS,
    Moments,
    all_ranges,
    entropy_range,
    kl_threshold_bins,
    mse_range,
    percentile_range,
)
from ssd_edge.calib.observers import TensorStatistics
from ssd_edge.calib.table import CalibrationSettings
from ssd_edge.choices import METHODS

RANDOM = np.random.default_rng(0)
LAPLACE = RANDOM.laplace(size=1_000_000).astype(np.float32)
NORMAL = RANDOM.normal(size=1_000_000).astype(np.float32)
UNIFORM = RANDOM.uniform(0, 1, 1_000_000).astype(np.float32)
RELU = np.maximum(NORMAL, 0)
HARDSWISH = (2 * NORMAL * np.clip(2 * NORMAL + 3, 0, 6) / 6).astype(np.float32)
ONE_OUTLIER = np.append(LAPLACE, np.float32(100))
SHAPES = {"laplace": LAPLACE, "relu": RELU, "hardswish": HARDSWISH, "uniform": UNIFORM, "outlier": ONE_OUTLIER}


def observed(*images: NDArray[np.float32], bins: int = 4096) -> TensorStatistics:
    statistics = TensorStatistics(bins=bins)
    for image in images:
        statistics.update(np.asarray(image, np.float32))
    return statistics


def ranges(*images: NDArray[np.float32]) -> dict[str, tuple[float, float]]:
    return all_ranges(observed(*images), CalibrationSettings())


def quantisation_error(values: NDArray[np.float32], low: float, high: float) -> float:
    """Mean squared error of real 8-bit quantisation with a zero point."""
    step = (high - low) / 255
    zero = round(-low / step)
    levels = np.clip(np.rint(values / step) + zero, 0, 255)
    return float((((levels - zero) * step - values) ** 2).mean())


def test_minmax_and_moving_average() -> None:
    found = ranges(np.array([-1.0, 4.0]), np.array([-3.0, 2.0]))
    assert found["minmax"] == (-3.0, 4.0)
    assert found["moving_average"] == pytest.approx((-1.2, 3.8))


@pytest.mark.parametrize("values", [np.array([2.0, 5.0]), np.array([0.0, 5.0])])
def test_a_range_without_negative_values_starts_at_zero(values: NDArray[np.float32]) -> None:
    for method, (low, high) in ranges(values).items():
        assert low == 0, method
        assert 0 < high <= 5, method


def test_a_range_without_positive_values_ends_at_zero() -> None:
    for method, (low, high) in ranges(-UNIFORM).items():
        assert high == 0, method
        assert -1 <= low < -0.9, method


def test_percentile_of_uniform_values() -> None:
    assert percentile_range(observed(UNIFORM), 99) == pytest.approx((0, 0.99), abs=2e-3)
    assert percentile_range(observed(2 * UNIFORM - 1), 90) == pytest.approx((-0.9, 0.9), abs=4e-3)


def test_percentile_is_interpolated_within_a_bin() -> None:
    # 8 values in [0, 4) bin widths of 1, two a bin: a quarter is 2 values, an eighth is 1.
    statistics = observed(np.array([0.5, 0.6, 1.5, 1.6, 2.5, 2.6, 3.5, 3.6]), bins=4)
    assert percentile_range(statistics, 75)[1] == 3.0
    assert percentile_range(statistics, 87.5)[1] == 3.5
    assert percentile_range(statistics, 100)[1] == 4.0


def test_percentile_counts_zeros() -> None:
    values = np.concatenate([np.zeros(9_900), np.full(99, 1.0), [50.0]])
    high = percentile_range(observed(values), 99.98)[1]  # 2 of 9,999 and 1 at 50 and the rest
    assert 1.0 <= high < 1.1
    assert percentile_range(observed(values), 98)[1] == 0


def test_one_outlier_in_a_million_is_clipped_by_all_but_minmax() -> None:
    found = ranges(ONE_OUTLIER)
    assert found["minmax"][1] == 100
    assert found["percentile"][1] == pytest.approx(-math.log(2 * 0.5e-4), rel=0.05)  # Laplace's upper 0.005 %
    assert found["entropy"][1] < 20
    assert found["mse"][1] < 60


@pytest.mark.parametrize("name", SHAPES)
def test_every_range_holds_zero_and_nothing_that_was_not_seen(name: str) -> None:
    values = SHAPES[name]
    found = ranges(values)
    assert tuple(found) == METHODS
    for method, (low, high) in found.items():
        assert min(values.min(), 0) <= low <= 0 < high <= values.max(), method
        assert type(low) is type(high) is float, method


@pytest.mark.parametrize(
    ("values", "threshold"),
    [
        pytest.param(LAPLACE, 9.89, id="laplace"),
        pytest.param(NORMAL, 3.92, id="normal"),
    ],
)
def test_mse_finds_the_published_thresholds(values: NDArray[np.float32], threshold: float) -> None:
    """Banner et al., "Post training 4-bit quantization", NeurIPS 2019: ACIQ's thresholds for 8 bits and b = σ = 1."""
    low, high = mse_range(observed(values))
    assert high == pytest.approx(threshold, rel=0.06)
    assert low == pytest.approx(-threshold, rel=0.06)


@pytest.mark.parametrize("name", SHAPES)
def test_mse_has_the_smallest_error_of_real_quantisation(name: str) -> None:
    values = SHAPES[name]
    found = quantisation_error(values, *mse_range(observed(values)))
    some = values if name == "outlier" else values[:100_000]
    lowest, highest = min(float(values.min()), 0), float(values.max())
    shrunk = np.geomspace(1 / 16, 1, 9)
    pairs = [(lowest * a, highest * b) for a in shrunk for b in shrunk]
    best = min(pairs, key=lambda pair: quantisation_error(some, *pair))
    assert found <= 1.001 * quantisation_error(values, *best)


def test_the_error_from_the_histogram_is_that_of_real_quantisation() -> None:
    for low, high in ((-3.0, 2.0), (-0.375, 8.0), (0.0, 5.0)):
        estimate = Moments(observed(HARDSWISH)).squared_error(np.array([low]), np.array([high]))[0] / len(HARDSWISH)
        assert estimate == pytest.approx(quantisation_error(HARDSWISH, low, high), rel=0.01)


def test_zeros_of_relu_change_neither_entropy_nor_mse() -> None:
    positive = RELU[RELU > 0]
    without, with_many = observed(positive), observed(positive, np.zeros(20_000_000, np.float32))
    assert entropy_range(with_many) == entropy_range(without)
    assert mse_range(with_many) == mse_range(without)


def brute_force_threshold(counts: list[float]) -> int:
    """The algorithm of Migacz's slides, bin by bin."""
    total = sum(counts)
    best, threshold = math.inf, 0
    for kept in range(KL_LEVELS, len(counts) + 1):
        reference = list(counts[:kept])
        reference[-1] += sum(counts[kept:])
        levels: dict[int, list[int]] = {}
        for b in range(kept):
            if counts[b]:
                levels.setdefault(b * KL_LEVELS // kept, []).append(b)
        candidate = [0.0] * kept
        for members in levels.values():
            for b in members:
                candidate[b] = sum(counts[m] for m in members) / len(members)
        if not any(candidate):
            continue
        if not candidate[-1]:
            candidate[-1] = 1.0
        inside = sum(counts[:kept])
        divergence = sum(
            p / total * math.log((p / total) / (q / inside)) for p, q in zip(reference, candidate, strict=True) if p
        )
        if divergence <= best + 1e-12:
            best, threshold = min(best, divergence), kept
    return threshold


@pytest.mark.parametrize("seed", range(12))
def test_entropy_is_that_of_brute_force(seed: int) -> None:
    random = np.random.default_rng(seed)
    bins = int(random.integers(140, 400))
    counts = random.poisson(1e4 * np.exp(-np.arange(bins) / (bins / random.uniform(3, 12)))).astype(np.float64)
    counts[random.random(bins) < 0.2] = 0
    counts[-1] = 1 + seed % 3
    assert kl_threshold_bins(counts) == brute_force_threshold(counts.tolist())


def test_entropy_of_few_bins_keeps_them_all() -> None:
    assert kl_threshold_bins(np.zeros(10)) == 0
    assert kl_threshold_bins(np.array([0.0, 0, 3, 0])) == 3
    assert kl_threshold_bins(np.ones(KL_LEVELS)) == KL_LEVELS


@pytest.mark.parametrize("values", [pytest.param(LAPLACE, id="laplace"), pytest.param(NORMAL, id="normal")])
def test_entropy_is_near_that_of_onnxruntime(values: NDArray[np.float32]) -> None:
    """Which smooths the distributions, and splits the levels unevenly: a bound, not an equality."""
    collector = pytest.importorskip("onnxruntime.quantization.calibrate").HistogramCollector
    farthest = float(np.abs(values).max())
    histogram, edges = np.histogram(values, 2001, (-farthest, farthest))
    # 256 levels of both signs are 128 of the magnitude. The method uses no attribute of its object.
    theirs = collector.get_entropy_threshold(None, (histogram, edges, values.min(), values.max()), 256)[1]
    assert entropy_range(observed(values))[1] == pytest.approx(float(theirs), rel=0.15)


@pytest.mark.parametrize("values", [np.zeros(5), np.array([]), np.array([1e-9, -1e-9])])
def test_a_tensor_without_extent_gets_a_scale_all_the_same(values: NDArray[np.float32]) -> None:
    assert ranges(values) == dict.fromkeys(METHODS, EMPTY_RANGE)
    assert EMPTY_RANGE[0] == 0 < EMPTY_RANGE[1]


def test_ranges_do_not_depend_on_the_order() -> None:
    images = [scale * LAPLACE[i::7] for i, scale in enumerate((0.1, 3.0, 1.0, 20.0, 0.5, 1.0, 2.0))]
    first, second = ranges(*images), ranges(*images[::-1])
    assert first["moving_average"] != second["moving_average"]  # the one that is meant to
    assert {m: r for m, r in first.items() if m != "moving_average"} == {
        m: r for m, r in second.items() if m != "moving_average"
    }
