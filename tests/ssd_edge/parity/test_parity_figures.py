"""The figures behind a comparison, against values worked out by hand."""

import math

import numpy as np
import pytest
import torch

from ssd_edge.card import ModelCard
from ssd_edge.detections import Detections
from ssd_edge.models import box_coder
from ssd_edge.parity import decoding
from ssd_edge.parity.compare_cards import card_differences
from ssd_edge.parity.compare_detections import ImagePairs, RunningDetections, pair_detections
from ssd_edge.parity.difference import RunningDifference
from ssd_edge.parity.tolerances import TOLERANCES, tolerance_of


def running(*pairs: tuple[list[float], list[float]], unit: float = 1.0) -> RunningDifference:
    difference = RunningDifference(unit)
    for reference, model in pairs:
        difference.update(np.float32(reference), np.float32(model))
    return difference


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


def test_bounds_are_those_of_the_coarser_precision() -> None:
    assert tolerance_of("fp32", "fp16").precision == "fp16"
    assert tolerance_of("int8", "fp32").precision == "int8"
    assert tolerance_of("fp32", "fp8").precision == "int8"  # not known
    fp32, fp16 = TOLERANCES["fp32"], TOLERANCES["fp16"]
    assert not fp32.departs("logits", running(([0.5], [0.50009])).result())
    assert fp32.departs("logits", running(([0.5], [0.50011])).result())
    assert not fp16.departs("logits", running(([0, 100], [0, 100.5])).result())  # 43 dB
    assert fp16.departs("logits", running(([0, 100], [0, 101])).result())  # 37 dB


def test_decoding_is_that_of_the_models() -> None:
    assert box_coder.VARIANCE_CENTRE == decoding.VARIANCE_CENTRE
    assert box_coder.VARIANCE_SIZE == decoding.VARIANCE_SIZE
    assert box_coder.LARGEST_LOG_SCALE == decoding.LARGEST_LOG_SCALE
    random = np.random.default_rng(0)
    default_cxcywh = random.uniform(0.1, 0.9, (50, 4)).astype(np.float32)
    corners = [default_cxcywh[:, :2] - default_cxcywh[:, 2:] / 2, default_cxcywh[:, :2] + default_cxcywh[:, 2:] / 2]
    defaults = torch.from_numpy(np.concatenate(corners, axis=1))
    offsets = random.normal(0, 3, (50, 4)).astype(np.float32)
    offsets[0] = (0, 0, 100, -5)  # beyond the limit
    boxes = box_coder.decode_boxes(torch.from_numpy(offsets), defaults).numpy()
    recovered = decoding.default_boxes_of(boxes, offsets)
    np.testing.assert_allclose(recovered, default_cxcywh, atol=2e-6)
    np.testing.assert_allclose(decoding.decode(offsets, recovered), boxes, atol=1e-5)
    # by hand: a default box of 0.2 × 0.4 around (0.5, 0.5), moved by 0.1 · 1 · 0.2 and as large as before
    moved = decoding.decode(np.float32([[1, 0, 0, 0]]), np.array([[0.5, 0.5, 0.2, 0.4]]))
    np.testing.assert_allclose(moved, [[0.42, 0.3, 0.62, 0.7]], atol=1e-6)


def test_scores_are_the_softmax_without_background() -> None:
    logits = np.log(np.float32([[2, 1, 1], [1, 0.5, 2.5]]))
    np.testing.assert_allclose(decoding.scores_of(logits), [[0.25, 0.25], [0.125, 0.625]], atol=1e-6)
    huge = decoding.scores_of(np.float32([[1000, 1000]]))
    assert huge.tolist() == [[0.5]]


def found(*detections: tuple[float, float, int]) -> Detections:
    """Boxes of 10 × 10 pixels from their left edge, score and label."""
    boxes = np.float32([(x, 0, x + 10, 10) for x, _, _ in detections]).reshape(-1, 4)
    return Detections(
        boxes, np.float32([score for _, score, _ in detections]), np.int64([label for _, _, label in detections])
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


def test_cards_differ_in_what_takes_effect_only() -> None:
    card = ModelCard("a", 64, 64, ("x",), (1,), (0.0,) * 3, (1.0,) * 3, 0.01, 0.5, 10, 10)
    values = vars(card) | {"precision": "int8", "parent_sha256": "0", "metrics": {"AP": 0.5}, "training_data": "d"}
    assert card_differences(card, ModelCard(**values)) == ()
    (difference,) = card_differences(card, ModelCard(**(vars(card) | {"candidates": 20})))
    assert (difference.name, difference.reference, difference.model) == ("candidates", "10", "20")
