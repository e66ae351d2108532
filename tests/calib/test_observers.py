"""Running statistics: exact counts in any order, whatever comes, in a fixed amount of memory."""

import tracemalloc

import numpy as np
import pytest

from ssd_edge.calib.observers import TensorStatistics


def observe(*images: object, bins: int = 4, momentum: float = 0.9) -> TensorStatistics:
    statistics = TensorStatistics(bins=bins, momentum=momentum)
    for image in images:
        statistics.update(np.asarray(image, np.float32))
    return statistics


def test_hand_checked_counts() -> None:
    statistics = observe([0.1, 0.9, 3.0, -1.0, 0.0])
    assert (statistics.count, statistics.zeros) == (5, 1)
    assert (statistics.minimum, statistics.maximum) == (-1.0, 3.0)
    assert statistics.bin_width == 1.0  # 4 bins up to 4
    # -1 lies in [-2, -1], 0.1 and 0.9 nearer to zero than 1, shared by both sides.
    assert statistics.density().tolist() == [0, 0, 1, 1, 1, 0, 0, 1]


def test_near_zero_belongs_to_the_only_side_there_is() -> None:
    assert observe([0.1, 3.0]).density().tolist() == [0, 0, 0, 0, 1, 0, 0, 1]
    assert observe([-0.1, -3.0]).density().tolist() == [1, 0, 0, 1, 0, 0, 0, 0]


def test_a_larger_value_merges_neighbouring_bins() -> None:
    statistics = observe([0.3, 0.6, 0.9, -0.8])
    assert statistics.bin_width == 0.25
    assert statistics.density().tolist() == [1, 0, 0, 0, 0, 1, 1, 1]
    statistics.update(np.array([1.5], np.float32))
    assert statistics.bin_width == 0.5
    assert statistics.density().tolist() == [0, 0, 1, 0.5, 0.5, 2, 0, 1]
    statistics.update(np.array([1000.0], np.float32))
    assert statistics.bin_width == 256
    assert statistics.density().tolist() == [0, 0, 0, 2.5, 2.5, 0, 0, 1]


def test_a_power_of_two_opens_the_next_range() -> None:
    statistics = observe([4.0])
    assert statistics.bin_width == 2.0
    assert statistics.density().tolist() == [0, 0, 0, 0, 0, 0, 1, 0]


def test_counts_do_not_depend_on_the_order() -> None:
    random = np.random.default_rng(0)
    images = [(random.normal(size=500) * 10.0**power).astype(np.float32) for power in (-6, 2, 0, -1, 3, -3)]
    images.append(np.zeros(100, np.float32))
    expected = observe(np.concatenate(images), bins=512)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(images))
        shuffled = observe(*(images[i] for i in order), bins=512)
        np.testing.assert_array_equal(shuffled.density(), expected.density())
        assert (shuffled.minimum, shuffled.maximum) == (expected.minimum, expected.maximum)
        assert (shuffled.count, shuffled.zeros, shuffled.bin_width) == (3100, 100, expected.bin_width)


def test_counts_are_those_of_numpy() -> None:
    values = np.random.default_rng(1).normal(size=200_001).astype(np.float32)  # several chunks, the last one partial
    statistics = observe(values, bins=256)
    edge = 256 * statistics.bin_width
    expected = np.histogram(values.astype(np.float64), 512, (-edge, edge))[0]
    found = statistics.density()
    np.testing.assert_array_equal(found[:255], expected[:255])
    np.testing.assert_array_equal(found[257:], expected[257:])
    assert found[255] + found[256] == expected[255] + expected[256]


def test_the_moving_average_is_that_of_torch() -> None:
    torch = pytest.importorskip("torch")
    from torch.ao.quantization.observer import MovingAverageMinMaxObserver

    observer = MovingAverageMinMaxObserver(averaging_constant=0.1)
    statistics = TensorStatistics(bins=4, momentum=0.9)
    for image in np.random.default_rng(0).normal(size=(20, 50)).astype(np.float32):
        observer(torch.from_numpy(image))
        statistics.update(image)
    assert statistics.average_minimum == pytest.approx(float(observer.min_val), rel=1e-5)
    assert statistics.average_maximum == pytest.approx(float(observer.max_val), rel=1e-5)


def test_hand_checked_moving_average() -> None:
    statistics = observe([10.0, -1.0], [20.0, 0.0], momentum=0.9)
    assert statistics.average_maximum == pytest.approx(11.0)
    assert statistics.average_minimum == pytest.approx(-0.9)


@pytest.mark.parametrize(("value", "name"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")])
def test_what_is_not_finite_is_refused_and_not_counted(value: float, name: str) -> None:
    statistics = observe([1.0, 2.0])
    with pytest.raises(FloatingPointError, match=name):
        statistics.update(np.array([1.0, value, 3.0], np.float32))
    assert (statistics.count, statistics.maximum) == (2, 2.0)


def test_nothing_and_zeros_and_subnormal_values() -> None:
    assert observe().bin_width == 0.0
    assert observe(np.zeros((2, 0))).count == 0
    zeros = observe([0.0, -0.0])
    assert (zeros.count, zeros.zeros, zeros.bin_width, zeros.density().sum()) == (2, 2, 0.0, 0)
    assert observe([1e-40, 0.0]).density().sum() == 1
    assert observe([3e38, -3e38]).density().tolist() == [1, 0, 0, 0, 0, 0, 0, 1]


def test_memory_does_not_grow_with_the_images() -> None:
    statistics = TensorStatistics()
    random = np.random.default_rng(0)
    statistics.update(random.normal(size=100_000).astype(np.float32))
    tracemalloc.start()
    for scale in range(1, 40):
        statistics.update(scale * random.normal(size=100_000).astype(np.float32))
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 100_000  # the histogram has 64 kB; one image has 400
    assert peak < 4_000_000
