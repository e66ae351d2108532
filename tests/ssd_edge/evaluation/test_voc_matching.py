"""VOC's rules on cases worked out by hand, and against the devkit's loops written out."""

import math
from pathlib import Path

import numpy as np
import pytest

from ssd_edge.data.dataset import DetectionDataset, ImageRecord, box_areas
from ssd_edge.detections import Detections
from ssd_edge.evaluation.evaluate import evaluate_detections
from ssd_edge.evaluation.voc_matching import Matches, box_iou, match_boxes

NAMES = ("cat", "dog", "cow")


def dataset(*images: list[tuple[list[float], int, bool]]) -> DetectionDataset:
    """One image an argument: box, label, difficult."""
    records = []
    for number, things in enumerate(images, start=1):
        boxes = np.array([box for box, _, _ in things], np.float32).reshape(-1, 4)
        labels, difficult = [label for _, label, _ in things], [hard for _, _, hard in things]
        path = Path(f"{number}.png")
        records.append(
            ImageRecord(path, number, (100, 100), boxes, np.array(labels), box_areas(boxes), np.array(difficult))
        )
    return DetectionDataset("test", NAMES, (1, 2, 3), tuple(records))


def detections(*things: tuple[list[float], float, int]) -> Detections:
    """Box, score, label."""
    boxes = np.array([box for box, _, _ in things], np.float32).reshape(-1, 4)
    return Detections(boxes, np.array([s for _, s, _ in things]), np.array([label for _, _, label in things]))


def match(found: list[Detections], truth: DetectionDataset) -> Matches:
    return match_boxes(found, truth, labels=(0, 1, 2), label_of_class=(0, 1, 2))


A, B = [0.0, 0.0, 40.0, 40.0], [50.0, 0.0, 90.0, 40.0]


def shifted(box: list[float], by: float) -> list[float]:
    return [box[0] + by, box[1], box[2] + by, box[3]]


def test_a_second_detection_of_a_box_is_false() -> None:
    matches = match([detections((A, 0.8, 0), (A, 0.9, 0), (B, 0.7, 0))], dataset([(A, 0, False), (B, 0, False)]))
    assert matches.scores.tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert matches.correct.tolist() == [True, False, True]
    # Precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1.
    assert matches.curve(0).voc_ap() == pytest.approx((1 + 2 / 3) / 2)
    assert matches.curve(0).voc07_ap() == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)


def test_a_detection_belongs_to_the_box_it_overlaps_most_even_if_that_is_taken() -> None:
    # Boxes of IoU 30/50 with each other. Both detections overlap the first most; the second box stays missed,
    # although the second detection overlaps it by 36/44: this is where VOC differs from COCO.
    near = shifted(A, 10)
    found = detections((A, 0.9, 0), (shifted(A, 4), 0.8, 0))
    truth = dataset([(A, 0, False), (near, 0, False)])
    matches = match([found], truth)
    assert matches.correct.tolist() == [True, False]
    assert matches.missed_above(0.5).tolist() == [False, True]
    result = evaluate_detections([found], truth, NAMES)
    assert result.per_class["cat"].voc_ap50 == pytest.approx(0.5)
    assert result.per_class["cat"].ap50 == pytest.approx(1)


def test_difficult_boxes_are_neither_asked_for_nor_wrong() -> None:
    found = [detections((A, 0.9, 0), (A, 0.8, 0), (B, 0.7, 0))]
    matches = match(found, dataset([(A, 0, True), (B, 0, False)]))
    assert matches.ignored.tolist() == [True, True, False]
    assert matches.curve(0).truths == 1
    assert matches.curve(0).voc_ap() == 1
    assert not matches.missed_above(0.8)[0]


def test_iou_of_exactly_a_half_is_enough_and_another_class_is_not() -> None:
    half = [0.0, 0.0, 40.0, 20.0]
    matches = match([detections((half, 0.9, 0)), detections((A, 0.9, 1))], dataset([(A, 0, False)], [(A, 0, False)]))
    assert matches.correct.tolist() == [True, False]
    assert math.isnan(matches.curve(1).voc_ap())  # no such box


def test_equal_scores_keep_the_order_of_images_and_detections() -> None:
    found = [detections((B, 0.5, 0), (A, 0.5, 0)), detections((A, 0.5, 0))]
    matches = match(found, dataset([(A, 0, False)], [(A, 0, False)]))
    assert matches.found.images.tolist() == [0, 0, 1]
    assert matches.correct.tolist() == [False, True, True]


def test_iou_of_boxes_without_extent_is_0() -> None:
    point = np.array([[5.0, 5.0, 5.0, 5.0]])
    assert box_iou(point, point).tolist() == [[0]]


def devkit(found: list[Detections], truth: DetectionDataset, label: int) -> tuple[float, float]:
    """`VOCevaldet.m` of VOC2007 and of VOC2012, loop by loop; its widths of +1 are half-open boxes here."""
    confidence, ids, boxes = [], [], []
    for image, one in enumerate(found):
        for box, score, of_label in one:
            if of_label == label:
                confidence.append(-score)
                ids.append(image)
                boxes.append([float(v) for v in box])
    order = sorted(range(len(ids)), key=lambda d: confidence[d])
    detected = [[False] * len(record.labels) for record in truth.records]
    npos = sum(int(((record.labels == label) & ~record.crowd).sum()) for record in truth.records)
    tp, fp = [0] * len(order), [0] * len(order)
    for d, which in enumerate(order):
        record, bb = truth.records[ids[which]], boxes[which]
        ovmax, jmax = -math.inf, -1
        for j in range(len(record.labels)):
            if record.labels[j] != label:
                continue
            bbgt = [float(v) for v in record.boxes_xyxy[j]]
            iw, ih = min(bb[2], bbgt[2]) - max(bb[0], bbgt[0]), min(bb[3], bbgt[3]) - max(bb[1], bbgt[1])
            if iw > 0 and ih > 0:
                ua = (bb[2] - bb[0]) * (bb[3] - bb[1]) + (bbgt[2] - bbgt[0]) * (bbgt[3] - bbgt[1]) - iw * ih
                if iw * ih / ua > ovmax:
                    ovmax, jmax = iw * ih / ua, j
        if ovmax >= 0.5:
            if not record.crowd[jmax]:
                if not detected[ids[which]][jmax]:
                    tp[d], detected[ids[which]][jmax] = 1, True
                else:
                    fp[d] = 1
        else:
            fp[d] = 1
    rec = [sum(tp[: d + 1]) / npos for d in range(len(order))]
    prec = [sum(tp[: d + 1]) / max(sum(tp[: d + 1]) + sum(fp[: d + 1]), 1e-9) for d in range(len(order))]
    ap07 = sum(max((p for r, p in zip(rec, prec, strict=True) if r >= t / 10), default=0) / 11 for t in range(11))
    mrec, mpre = [0, *rec, 1], [0, *prec, 0]
    for i in range(len(mpre) - 2, -1, -1):
        mpre[i] = max(mpre[i], mpre[i + 1])
    ap = sum((mrec[i + 1] - mrec[i]) * mpre[i + 1] for i in range(len(mrec) - 1) if mrec[i + 1] != mrec[i])
    return ap07, ap


def random_scenes(
    seed: int, *, difficult: float, apart: bool = False, levels: int = 20
) -> tuple[list[Detections], DetectionDataset]:
    """Boxes, and noisy detections of them: repeated, misplaced, misnamed, with equal scores."""
    random = np.random.default_rng(seed)
    images, found = [], []
    for _ in range(12):
        count = int(random.integers(0, 7))
        cells = np.stack(np.divmod(random.permutation(9)[:count], 3), axis=1)  # of a grid, [count, 2]
        corners = 4.0 + 32 * cells if apart else random.uniform(0, 60, (count, 2))
        boxes = np.concatenate([corners, corners + random.uniform(10, 28, (count, 2))], axis=1)
        labels = random.integers(0, 3, count)
        images.append(
            [(b.tolist(), int(k), bool(random.random() < difficult)) for b, k in zip(boxes, labels, strict=True)]
        )
        seen = np.repeat(np.arange(count), random.integers(0, 4, count))
        noisy = boxes[seen] + random.normal(0, 2.5, (len(seen), 4))
        stray = np.array([[2.0, 2, 12, 12]] * 3) + random.uniform(0, 80, (3, 1))
        guessed = np.where(random.random(len(seen)) < 0.8, labels[seen], random.integers(0, 3, len(seen)))
        scores = random.integers(1, levels, len(seen) + 3) / levels
        order = np.argsort(-scores, kind="stable")
        found.append(
            Detections(
                np.concatenate([noisy, stray])[order],
                scores[order].astype(np.float32),
                np.concatenate([guessed, random.integers(0, 3, 3)])[order],
            )
        )
    return found, dataset(*images)


@pytest.mark.parametrize("seed", range(8))
def test_aps_are_those_of_the_devkits_loops(seed: int) -> None:
    found, truth = random_scenes(seed, difficult=0.3)
    matches = match(found, truth)
    for label in range(3):
        curve = matches.curve(label)
        assert (curve.voc07_ap(), curve.voc_ap()) == pytest.approx(devkit(found, truth, label), abs=1e-12)
        assert 0 < curve.voc_ap() < 1  # else nothing is tested


def test_ap_is_near_cocos_where_boxes_are_apart_and_none_is_difficult() -> None:
    found, truth = random_scenes(3, difficult=0, apart=True, levels=10_000)
    result = evaluate_detections(found, truth, NAMES)
    for of_class in result.per_class.values():
        assert of_class.voc_ap50 == pytest.approx(of_class.ap50, abs=0.015)  # COCO samples 101 recalls
        assert of_class.voc_ap50 != 0
    assert result.metrics["VOC_AP50"] == pytest.approx(
        np.mean([of_class.voc_ap50 for of_class in result.per_class.values()])
    )
