"""Non-maximum suppression on the CPU: the reference that every other implementation has to equal."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ssd_edge.detections import Detections

BLOCK = 128  # boxes compared with each other at once: all temporaries stay in the processor's cache
SAMPLE_STRIDE = 61  # of the scores that are looked at to guess how many are above a value; prime: no pattern


def nms(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    *,
    score_threshold: float,
    iou_threshold: float,
    candidates: int,
    detections: int,
    iou_epsilon: float = 0.0,
    clip: bool = False,
) -> Detections:
    """The best boxes of one image, no two of a class overlapping by more than `iou_threshold`.

    Per class: those with score > `score_threshold`, the best `candidates` of them, greedy suppression of a
    box whose IoU with a better kept box is > `iou_threshold`; then the best `detections` over all classes.
    Equal scores are ordered by lower class, then lower anchor. An anchor with a NaN in its box, and a score
    that is NaN, take no part. As torchvision's `SSD.postprocess_detections`, up to the order of equal scores.

    IoU is intersection / (area + area - intersection + `iou_epsilon`) in float32, in that order, and both thresholds
    are rounded to float32; a pair whose union is empty does not overlap.

    The classes are not looped over: boxes are taken best first over all of them, a block at a time, until
    `detections` are kept. What is kept never depends on a worse box, so the rest need not be looked at.

    Args:
        boxes: float32 [anchors, 4], x0 y0 x1 y1.
        scores: float32 [anchors, classes].
        iou_epsilon: in the unit of `boxes`, squared.
        clip: boxes are clipped to 0–1 before they are compared.

    Returns:
        `Detections` with boxes as given, or clipped, best first.
    """
    boxes, scores = np.asarray(boxes, np.float32), np.asarray(scores, np.float32)
    found = np.flatnonzero(scores.reshape(-1) > np.float32(score_threshold))
    if len(found) < len(boxes) // 4:  # all others take no part, and the steps that follow have less to look at
        rows = np.unique(found // scores.shape[1])
        boxes, scores = boxes[rows], scores[rows]
    if clip:
        boxes = np.clip(boxes, 0, 1)
    if np.isnan(boxes).any():
        scores = np.where(np.isnan(boxes).any(axis=1, keepdims=True), np.float32(np.nan), scores)
    limits = np.float32(iou_threshold), np.float32(iou_epsilon)
    seen = np.zeros(scores.shape[1], np.int64)  # candidates of each class met so far
    anchors, labels = np.zeros(0, np.int64), np.zeros(0, np.int64)  # what is kept, best first
    for new_anchors, new_labels in best_first(scores, np.float32(score_threshold), 6 * detections):
        before, seen = seen, seen + np.bincount(new_labels, minlength=len(seen))
        if seen.max() > candidates:
            allowed = before[new_labels] + _rank_in_class(new_labels) < candidates
            new_anchors, new_labels = new_anchors[allowed], new_labels[allowed]
        for start in range(0, len(new_labels), BLOCK):
            kept = len(labels)
            anchors = np.concatenate([anchors, new_anchors[start : start + BLOCK]])
            labels = np.concatenate([labels, new_labels[start : start + BLOCK]])
            keep = _greedy_keep(boxes[anchors], labels, kept, limits)[:detections]
            anchors, labels = anchors[keep], labels[keep]
            if len(labels) == detections:
                return Detections(boxes[anchors], scores[anchors, labels], labels)
    return Detections(boxes[anchors], scores[anchors, labels], labels)


def best_first(
    scores: NDArray[np.float32], threshold: np.float32, size: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(anchors, labels) of the scores above the threshold, best first, in portions: about `size`, then more.

    A portion is all scores between two values, so the cut runs through no tie. The values are guessed from a sample of
    the scores; a bad guess makes portions larger or smaller and changes nothing else.
    """
    flat = scores.reshape(-1)
    sample = flat[::SAMPLE_STRIDE]
    sample = np.sort(sample[sample > threshold])
    upper = np.float32(np.inf)
    while upper > threshold:
        below = sample[sample < upper]
        rank = size // SAMPLE_STRIDE + 1
        lower = below[-rank] if rank <= len(below) else threshold
        found = np.flatnonzero((flat > lower) & (flat <= upper) if upper < np.inf else flat > lower)
        anchors, labels = np.divmod(found, scores.shape[1])
        order = _best_first_order(flat[found], anchors, labels)
        yield anchors[order], labels[order]
        upper = lower
        size *= 2


def _best_first_order(
    values: NDArray[np.float32], anchors: NDArray[np.int64], labels: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Indexes that sort by falling value, then label, then anchor."""
    order = np.argsort(-values)  # several times as fast as by three keys, and enough where no two values are equal
    in_order = values[order]
    if np.any(in_order[1:] == in_order[:-1]):
        order = np.lexsort((anchors, labels, -values))
    return order


def _rank_in_class(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many earlier entries have the same label, for each entry."""
    order = np.argsort(labels, kind="stable")
    in_order = labels[order]
    ranks = np.empty_like(labels)
    ranks[order] = np.arange(len(labels)) - np.searchsorted(in_order, in_order)
    return ranks


def _greedy_keep(
    boxes: NDArray[np.float32], labels: NDArray[np.int64], kept: int, limits: tuple[np.float32, np.float32]
) -> NDArray[np.int64]:
    """Indexes of what greedy suppression within each class keeps of boxes given best first; the first `kept` stay.

    A box is kept when no kept better box overlaps it. Starting from "all are kept", applying that rule to all boxes at
    once settles: after n rounds the first n boxes are final, in practice after a few.
    """
    suppressed = _overlaps(boxes[:kept], labels[:kept], boxes[kept:], labels[kept:], limits).any(axis=0)
    free = kept + np.flatnonzero(~suppressed)
    better, worse = np.nonzero(_overlaps(boxes[free], labels[free], boxes[free], labels[free], limits))
    in_order = better < worse
    better, worse = better[in_order], worse[in_order]
    keep = np.ones(len(free), np.bool_)
    while True:
        settled = np.ones(len(free), np.bool_)
        settled[worse[keep[better]]] = False
        if np.array_equal(settled, keep):
            return np.concatenate([np.arange(kept), free[keep]])
        keep = settled


def _overlaps(
    boxes_a: NDArray[np.float32],
    labels_a: NDArray[np.int64],
    boxes_b: NDArray[np.float32],
    labels_b: NDArray[np.int64],
    limits: tuple[np.float32, np.float32],
) -> NDArray[np.bool_]:
    """Which pairs are of one class and have an IoU above the threshold: bool [a, b].

    Args:
        limits: the threshold, and what is added to each union.
    """
    threshold, epsilon = limits
    low_a, high_a = np.ascontiguousarray(boxes_a.T).reshape(2, 2, -1, 1)  # each [xy, a, 1]
    low_b, high_b = np.ascontiguousarray(boxes_b.T).reshape(2, 2, 1, -1)  # each [xy, 1, b]
    # An empty union, or boxes too large for float32, end in a NaN or a 0, which are above nothing.
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        sides = np.minimum(high_a, high_b)  # [xy, a, b]; the steps that follow write into what is there
        sides -= np.maximum(low_a, low_b)
        np.maximum(sides, 0, out=sides)
        intersection = np.multiply(sides[0], sides[1], out=sides[0])
        area_a, area_b = (high_a - low_a).prod(axis=0), (high_b - low_b).prod(axis=0)
        union = np.add(area_a, area_b, out=sides[1])
        union -= intersection
        union += epsilon
        iou = np.divide(intersection, union, out=union)
    above: NDArray[np.bool_] = iou > threshold
    above &= labels_a[:, None] == labels_b
    return above
