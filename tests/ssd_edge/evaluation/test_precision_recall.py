"""Precision, recall and AP against figures worked out by hand."""

import math

import numpy as np
import pytest

from ssd_edge.evaluation.precision_recall import OperatingPoint, PrecisionRecall


def curve(scores: list[float], correct: list[int], truths: int) -> PrecisionRecall:
    return PrecisionRecall.of(np.array(scores, np.float32), np.array(correct, bool), truths)


FIVE = curve([0.9, 0.8, 0.7, 0.6, 0.5], [1, 0, 1, 1, 0], truths=4)


def test_precision_and_recall_of_five_detections() -> None:
    np.testing.assert_allclose(FIVE.precision, [1, 1 / 2, 2 / 3, 3 / 4, 3 / 5])
    np.testing.assert_allclose(FIVE.recall, [1 / 4, 1 / 4, 2 / 4, 3 / 4, 3 / 4])
    np.testing.assert_allclose(FIVE.envelope(), [1, 3 / 4, 3 / 4, 3 / 4, 3 / 5])


def test_area_ap() -> None:
    # Recall rises by a quarter three times, at precision 1, 3/4 and 3/4.
    assert FIVE.voc_ap() == pytest.approx((1 + 0.75 + 0.75) / 4)


def test_eleven_point_ap() -> None:
    # Precision 1 at recall 0, 0.1, 0.2; 3/4 at 0.3 to 0.7; none at 0.8, 0.9, 1.
    assert FIVE.voc07_ap() == pytest.approx((3 * 1 + 5 * 0.75) / 11)


@pytest.mark.parametrize("found", range(11))
def test_a_recall_of_exactly_a_tenth_counts(found: int) -> None:
    # 0.1 × 3 > 3/10 in floating point: a grid of steps would lose that point.
    exact = curve([0.9] * found, [1] * found, truths=10)
    assert exact.voc07_ap() == (found + 1) / 11 if found else exact.voc07_ap() == 0


def test_without_detections_ap_is_0_and_without_boxes_nan() -> None:
    nothing_found, nothing_there = curve([], [], truths=3), curve([0.9, 0.8], [0, 0], truths=0)
    assert (nothing_found.voc07_ap(), nothing_found.voc_ap()) == (0, 0)
    assert math.isnan(nothing_there.voc07_ap())
    assert math.isnan(nothing_there.voc_ap())
    for one in (nothing_found, nothing_there, curve([0.9], [0], truths=3)):
        assert math.isnan(one.best_f1().score)


def test_a_detection_at_the_threshold_is_not_above_it() -> None:
    at = FIVE.at(0.6)
    assert (at.score, at.recall) == (0.6, 0.5)
    assert at.precision == pytest.approx(2 / 3)
    assert FIVE.at(0.59) == OperatingPoint(0.59, 0.75, 0.75)
    none = FIVE.at(0.95)
    assert math.isnan(none.precision)
    assert none.recall == 0


def test_best_f1_is_in_the_middle_of_the_thresholds_that_reach_it() -> None:
    # F1 of the best 1 to 5: 2/5, 2/6, 4/7, 6/8, 6/9. Four are kept from 0.50 to 0.59.
    best = FIVE.best_f1()
    assert best == OperatingPoint(0.55, 0.75, 0.75)
    assert best.f1 == pytest.approx(0.75)
    assert FIVE.at(best.score) == best
