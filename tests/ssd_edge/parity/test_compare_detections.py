"""Which detections of two models are the same ones, against values worked out by hand."""

import numpy as np
import pytest

from ssd_edge.detections import Detections
from ssd_edge.parity.compare_detections import ImagePairs, RunningDetections, pair_detections


def found(*detections: tuple[float, float, int]) -> Detections:
    """Boxes of 10 × 10 pixels from their left edge, score and label."""
    boxes = np.array([(x, 0, x + 10, 10) for x, _, _ in detections], np.float32).reshape(-1, 4)
    return Detections(
        boxes,
        np.array([score for _, score, _ in detections], np.float32),
        np.array([label for _, _, label in detections], np.int64),
    )


def pairs_of(reference: Detections, model: Detections, edge: float = 0.01) -> ImagePairs:
    return pair_detections(reference, model, score=0.4, edge=edge)


def test_detections_are_paired_by_class_and_place() -> None:
    reference = found((0, 0.9, 0), (20, 0.8, 1), (40, 0.7, 0), (60, 0.2, 0))
    model = found((0, 0.85, 0), (20, 0.8, 0), (42, 0.7, 0))  # of another class; 2 pixels on: IoU 8 of 12
    pairs = pairs_of(reference, model)
    assert pairs.missed.tolist() == [False, True, False]
    assert pairs.extra.tolist() == [False, True, False]
    assert pairs.shifted_reference.tolist() == [False, False, True]
    assert pairs.shifted_model.tolist() == [False, False, True]
    assert sorted(pairs.score_apart.tolist()) == pytest.approx([0, 0.05], abs=1e-6)
    assert sorted(pairs.iou.tolist()) == pytest.approx([8 / 12, 1])
    assert pairs.edge == 0


def test_a_detection_has_one_partner_the_nearest() -> None:
    pairs = pairs_of(found((0, 0.9, 0)), found((3, 0.95, 0), (1, 0.6, 0)))
    assert pairs.extra.tolist() == [True, False]
    assert pairs.iou.tolist() == pytest.approx([9 / 11])


def test_one_above_the_score_is_the_partner_before_a_nearer_one_below_it() -> None:
    pairs = pairs_of(found((0, 0.9, 0)), found((2, 0.5, 0), (0, 0.1, 0)))
    assert not pairs.missed.any()
    assert not pairs.extra.any()
    assert pairs.iou.tolist() == pytest.approx([8 / 12])


def test_what_slips_below_the_score_by_little_is_on_the_edge() -> None:
    slipped = pairs_of(found((0, 0.405, 0), (20, 0.45, 0)), found((0, 0.398, 0), (20, 0.39, 0)))
    assert slipped.missed.tolist() == [True, True]
    assert slipped.edge == 1  # by 0.007; the other by 0.06
    appeared = pairs_of(found((0, 0.398, 0)), found((0, 0.405, 0)))
    assert (appeared.extra.tolist(), appeared.edge) == ([True], 1)


def test_nothing_on_either_side() -> None:
    none = Detections.empty()
    assert pairs_of(none, none).badness == 0
    assert pairs_of(found((0, 0.9, 0)), none).missed.tolist() == [True]
    assert pairs_of(none, found((0, 0.9, 0))).badness == pytest.approx(0.9)
    counts = RunningDetections(0.4)
    counts.update(pairs_of(none, none))
    assert (counts.result().score_mean, counts.result().iou_mean) == (0, 1)


def test_counts_add_up_over_images() -> None:
    counts = RunningDetections(0.4)
    counts.update(pairs_of(found((0, 0.9, 0), (20, 0.8, 0)), found((0, 0.8, 0))))
    counts.update(pairs_of(found((0, 0.405, 0)), found((2, 0.6, 0), (50, 0.5, 1))))
    result = counts.result()
    assert (result.reference, result.model) == (3, 3)
    assert (result.missed, result.extra, result.shifted, result.edge) == (1, 1, 1, 0)
    assert result.different == 3
    assert result.score_max == pytest.approx(0.195)
    assert result.score_mean == pytest.approx((0.1 + 0.195) / 2)
    assert result.iou_min == pytest.approx(8 / 12)
