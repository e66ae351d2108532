"""The differences of two tensors, against values worked out by hand."""

import math

import numpy as np
import pytest

from ssd_edge.parity.tolerances import TOLERANCES
from tests.ssd_edge.parity.differences import running


def test_a_difference_by_hand() -> None:
    result = running(([1, 2], [1, 2.5]), ([3, -2], [4, -2])).result()
    assert (result.values, result.non_finite) == (4, 0)
    assert result.max == 1.0
    assert result.mean == pytest.approx((0 + 0.5 + 1 + 0) / 4)
    assert result.max_scaled == pytest.approx(1 / 3)  # 1 of 3; 0.5 of 2 is less
    assert result.cosine == pytest.approx((1 + 5 + 12 + 4) / math.sqrt(18 * (1 + 6.25 + 16 + 4)))
    # mean 1, so the spread's sum of squares is 18 - 4; that of the noise is 1.25
    assert result.snr_db == pytest.approx(10 * math.log10(14 / 1.25))


def test_the_percentile_is_the_999th_of_1000() -> None:
    apart = np.zeros(1000)
    apart[:1] = 50.0
    apart[1:20] = 2.0
    result = running((np.zeros(1000).tolist(), apart.tolist())).result()
    assert result.max == 50
    assert 2.0 <= result.p999 <= 2.0 * 33 / 32
    apart[:2] = 50.0
    assert running((np.zeros(1000).tolist(), apart.tolist())).result().p999 == 50.0  # a bin, but never above the max


def test_below_the_unit_a_difference_is_absolute() -> None:
    assert running(([0.001], [0.002]), unit=1.0).result().max_scaled == pytest.approx(0.001)
    assert running(([640], [641]), unit=320).result().max_scaled == pytest.approx(1 / 640)
    assert running(([64], [65]), unit=320).result().max_scaled == pytest.approx(1 / 320)


def test_equal_tensors_have_no_noise_and_shifted_ones_no_hiding_place() -> None:
    same = running(([1, 2], [1, 2])).result()
    assert (same.max, same.cosine, same.snr_db, same.p999) == (0, 1, math.inf, 0)
    constant = running(([5, 5], [6, 6])).result()  # cosine is 1, but the reference has no spread at all
    assert constant.cosine == pytest.approx(1)
    assert constant.snr_db == -math.inf


def test_numbers_that_are_not_finite_are_counted_apart() -> None:
    result = running(([1, 2, math.inf], [1, math.nan, math.inf])).result()
    assert (result.values, result.non_finite, result.max) == (3, 2, 0)
    nothing = running(([math.nan], [1])).result()
    assert math.isnan(nothing.max)
    assert TOLERANCES["int8"].departs("logits", result)
    assert TOLERANCES["fp32"].departs("logits", nothing)


def test_shapes_have_to_agree() -> None:
    with pytest.raises(ValueError, match=r"\[2\] and \[1\]"):
        running(([1, 2], [1]))
