"""The fast suppression against a slow one written as the contract reads, literal cases, and torchvision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ssd_edge.detections import Detections
from ssd_edge.runtime.nms import BLOCK, SAMPLE_STRIDE, best_first, nms
from tests.runtime.equal_detections import assert_equal
from tests.runtime.nms_inputs import SETTINGS, random_boxes


def iou(a: np.ndarray, b: np.ndarray) -> np.float32:
    width = max(np.float32(0), min(a[2], b[2]) - max(a[0], b[0]))
    height = max(np.float32(0), min(a[3], b[3]) - max(a[1], b[1]))
    intersection = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - intersection
    return intersection / union if union > 0 else np.float32(0)


def slow_nms(
    boxes: np.ndarray,
    scores: np.ndarray,
    *,
    score_threshold: float,
    iou_threshold: float,
    candidates: int,
    detections: int,
) -> Detections:
    kept = []  # (-score, label, anchor)
    for label in range(scores.shape[1]):
        entries = [
            (-scores[anchor, label], label, anchor)
            for anchor in range(len(scores))
            if scores[anchor, label] > np.float32(score_threshold) and not np.isnan(boxes[anchor]).any()
        ]
        survivors: list[tuple[float, int, int]] = []
        for entry in sorted(entries)[:candidates]:
            overlaps = (iou(boxes[entry[2]], boxes[other[2]]) for other in survivors)
            if not any(value > np.float32(iou_threshold) for value in overlaps):
                survivors.append(entry)
        kept += survivors
    kept = sorted(kept)[:detections]
    anchors = [anchor for _, _, anchor in kept]
    labels = np.array([label for _, label, _ in kept], np.int64)
    return Detections(boxes[anchors], scores[anchors, labels], labels)


def check(boxes: np.ndarray, scores: np.ndarray, **changes: Any) -> Detections:
    found = nms(boxes, scores, **(SETTINGS | changes))
    assert_equal(found, slow_nms(boxes, scores, **(SETTINGS | changes)))
    return found


@pytest.mark.parametrize("stride", [1, 3, SAMPLE_STRIDE])
@pytest.mark.parametrize("block", [1, 7, BLOCK])
@pytest.mark.parametrize("seed", range(60))
def test_random_cases(seed: int, block: int, stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Small values make many portions and blocks of few boxes, and change no result.
    monkeypatch.setattr("ssd_edge.runtime.nms.BLOCK", block)
    monkeypatch.setattr("ssd_edge.runtime.nms.SAMPLE_STRIDE", stride)
    rng = np.random.default_rng(seed)
    anchors, classes = int(rng.integers(1, 60)), int(rng.integers(1, 6))
    boxes = random_boxes(rng, anchors, grid=(None, 2, 4, 8)[rng.choice(4)])
    levels = rng.choice([3, 20, 10**6])  # few levels: many equal scores
    scores = (rng.integers(0, levels + 1, (anchors, classes)) / levels).astype(np.float32)
    check(
        boxes,
        scores,
        score_threshold=float(rng.choice([0.0, 0.1, 0.5])),
        iou_threshold=float(rng.choice([0.25, 0.5, 1.0])),
        candidates=int(rng.choice([1, 3, 10, 1000])),
        detections=int(rng.choice([1, 2, 7, 1000])),
    )


def test_a_hand_checked_case() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 8], [20, 0, 30, 10], [0, 0, 10, 4]], np.float32)
    scores = np.array([[0.6, 0.0], [0.9, 0.7], [0.8, 0.1], [0.3, 0.0]], np.float32)
    # Class 0: box 1 drops box 0 (IoU 0.8); box 3 stays (IoU 0.5 with it, not above). 0.1 is not above 0.1.
    found = nms(boxes, scores, **SETTINGS)
    assert found.labels.tolist() == [0, 0, 1, 0]
    assert found.scores.tolist() == pytest.approx([0.9, 0.8, 0.7, 0.3])
    assert found.boxes_xyxy.tolist() == [[0, 0, 10, 8], [20, 0, 30, 10], [0, 0, 10, 8], [0, 0, 10, 4]]


def test_a_dropped_box_drops_nothing() -> None:
    # A chain: each overlaps the next by IoU 0.6, the one after by 1/3.
    boxes = np.array([[x, 0, x + 8, 1] for x in (0, 2, 4, 6, 8)], np.float32)
    scores = np.array([[0.9], [0.8], [0.7], [0.6], [0.5]], np.float32)
    assert nms(boxes, scores, **SETTINGS).scores.tolist() == pytest.approx([0.9, 0.7, 0.5])


def test_ties_go_to_the_lower_class_then_the_lower_anchor() -> None:
    boxes = random_boxes(np.random.default_rng(0), 40)
    found = check(boxes, np.full((40, 3), 0.5, np.float32), iou_threshold=1.0, candidates=20, detections=45)
    assert found.labels.tolist() == [0] * 20 + [1] * 20 + [2] * 5
    assert np.array_equal(found.boxes_xyxy, boxes[[*range(20), *range(20), *range(5)]])


def test_ties_at_the_end_of_a_portion() -> None:
    # More equal scores than the first portion (six times the detections) holds, and all the same box.
    boxes = np.tile(np.array([[0, 0, 1, 1]], np.float32), (300, 1))
    scores = np.full((300, 2), 0.5, np.float32)
    scores[7, 1] = 0.9
    found = check(boxes, scores, detections=4, candidates=400)
    assert found.labels.tolist() == [1, 0]


def test_a_portion_ends_at_no_tie_and_none_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssd_edge.runtime.nms.SAMPLE_STRIDE", 1)
    scores = np.array([[0.5]] * 300 + [[0.9]] + [[0.2]] * 10, np.float32)
    portions = list(best_first(scores, np.float32(0.1), 2))
    assert [anchors.tolist() for anchors, _ in portions] == [[300], list(range(300)), list(range(301, 311))]


def test_many_portions_are_needed() -> None:
    rng = np.random.default_rng(5)
    boxes = np.concatenate([np.tile([[0, 0, 1, 1]], (200, 1)), [[0, 0, 0.1, 0.1], [0.5, 0.5, 0.6, 0.6]]])
    scores = np.concatenate([rng.uniform(0.5, 1, (200, 1)), [[0.3], [0.2]]]).astype(np.float32)
    assert len(check(boxes.astype(np.float32), scores, detections=3, candidates=500)) == 3


def test_the_cap_on_candidates_counts_suppressed_boxes() -> None:
    boxes = np.array([[0, 0, 1, 1]] * 3 + [[5, 5, 6, 6]], np.float32)
    scores = np.array([[0.9], [0.8], [0.7], [0.6]], np.float32)
    assert len(check(boxes, scores, candidates=3)) == 1
    assert len(check(boxes, scores, candidates=4)) == 2


@pytest.mark.parametrize(("anchors", "classes"), [(0, 3), (5, 1), (5, 3)])
def test_nothing_above_the_threshold(anchors: int, classes: int) -> None:
    boxes = np.zeros((anchors, 4), np.float32)
    found = nms(boxes, np.full((anchors, classes), 0.1, np.float32), **SETTINGS)
    assert found.boxes_xyxy.shape == (0, 4)


def test_nan_takes_no_part_and_infinity_is_the_best() -> None:
    boxes = np.array([[0, 0, 1, 1], [2, 2, 3, 3], [np.nan, 0, 1, 1], [4, 4, 5, 5]], np.float32)
    scores = np.array([[np.nan], [0.5], [0.9], [np.inf]], np.float32)
    assert check(boxes, scores).scores.tolist() == [np.inf, 0.5]


@pytest.mark.filterwarnings("error")
def test_infinite_and_huge_boxes_overlap_nothing_and_warn_of_nothing() -> None:
    large, inf = np.finfo(np.float32).max, np.inf
    boxes = np.array(
        [[0, 0, inf, inf], [inf, inf, inf, inf], [-inf, 0, inf, 0], [-large, -large, large, large], [0, 0, 1, 1]] * 2,
        np.float32,
    )
    scores = np.linspace(0.9, 0.5, 10, dtype=np.float32)[:, None]
    found = nms(boxes, scores, **SETTINGS)
    assert found.scores.tolist() == np.delete(scores, 9).tolist()  # only the last is like one before


def test_boxes_without_area_never_overlap() -> None:
    boxes = np.array([[1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 2, 1], [0, 0, 2, 2]], np.float32)
    assert len(check(boxes, np.full((4, 1), 0.5, np.float32))) == 4


def test_iou_exactly_at_the_threshold_stays() -> None:
    boxes = np.array([[0, 0, 1, 1], [0, 0, 1, 0.5]], np.float32)
    scores = np.array([[0.9], [0.8]], np.float32)
    assert len(check(boxes, scores, iou_threshold=0.5)) == 2
    assert len(check(boxes, scores, iou_threshold=0.4999)) == 1


def test_scores_that_are_a_view() -> None:
    rng = np.random.default_rng(3)
    boxes, scores = random_boxes(rng, 50), rng.random((50, 5)).astype(np.float32)
    assert_equal(nms(boxes, scores[:, 1:], **SETTINGS), nms(boxes, scores[:, 1:].copy(), **SETTINGS))


@pytest.mark.parametrize("seed", range(20))
def test_as_torchvision(seed: int) -> None:
    torch = pytest.importorskip("torch")
    ops = pytest.importorskip("torchvision.ops")
    rng = np.random.default_rng(seed)
    anchors, classes = 400, 8
    boxes = random_boxes(rng, anchors)
    scores = rng.permutation(anchors * classes).reshape(anchors, classes).astype(np.float32)  # no ties
    scores /= anchors * classes
    image_boxes, image_scores, image_labels = [], [], []  # as SSD.postprocess_detections collects them
    for label in range(classes):
        column = torch.from_numpy(scores[:, label])
        above = column > SETTINGS["score_threshold"]
        best, index = column[above].topk(min(SETTINGS["candidates"], int(above.sum())))
        image_boxes.append(torch.from_numpy(boxes)[above][index])
        image_scores.append(best)
        image_labels.append(torch.full_like(best, label, dtype=torch.int64))
    wanted = [torch.cat(parts) for parts in (image_boxes, image_scores, image_labels)]
    keep = ops.boxes.batched_nms(*wanted, SETTINGS["iou_threshold"])[: SETTINGS["detections"]]
    found = nms(boxes, scores, **SETTINGS)
    assert_equal(found, Detections(*(part[keep].numpy() for part in wanted)))
