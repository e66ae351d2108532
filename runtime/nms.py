"""Non-maximum suppression on the CPU: the reference that every other implementation has to equal."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ssd_edge.detections import Detections


def nms(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    *,
    score_threshold: float,
    iou_threshold: float,
    candidates: int,
    detections: int,
) -> Detections:
    """The best boxes of one image, no two of a class overlapping by more than `iou_threshold`.

    Per class: those with score > `score_threshold`, the best `candidates` of them, greedy suppression of a
    box whose IoU with a better kept box is > `iou_threshold`; then the best `detections` over all classes.
    Equal scores are ordered by lower class, then lower anchor. An anchor with a NaN in its box, and a score
    that is NaN, take no part. As torchvision's `SSD.postprocess_detections`, up to the order of equal scores.

    IoU is intersection / (area + area - intersection) in float32, in that order, and both thresholds are
    rounded to float32; a pair whose union is empty does not overlap.

    The classes are not looped over: boxes are taken best first over all of them, in a few portions, until
    `detections` are kept. What is kept never depends on a worse box, so the rest need not be looked at.

    Args:
        boxes: float32 [anchors, 4], x0 y0 x1 y1.
        scores: float32 [anchors, classes].

    Returns:
        `Detections` with boxes as given, best first.
    """
    boxes, scores = np.asarray(boxes, np.float32), np.asarray(scores, np.float32)
    if np.isnan(boxes).any():
        scores = np.where(np.isnan(boxes).any(axis=1, keepdims=True), np.float32(np.nan), scores)
    seen = np.zeros(scores.shape[1], np.int64)  # candidates of each class met so far
    anchors, labels = np.zeros(0, np.int64), np.zeros(0, np.int64)  # what is kept, best first
    for new_anchors, new_labels in _best_first(scores, np.float32(score_threshold), 2 * detections):
        allowed = seen[new_labels] + _rank_in_class(new_labels) < candidates
        seen += np.bincount(new_labels, minlength=len(seen))
        anchors = np.concatenate([anchors, new_anchors[allowed]])
        labels = np.concatenate([labels, new_labels[allowed]])
        keep = _greedy_keep(boxes[anchors], labels, np.float32(iou_threshold))
        anchors, labels = anchors[keep], labels[keep]
        if len(labels) >= detections:
            break
    anchors, labels = anchors[:detections], labels[:detections]
    return Detections(boxes[anchors], scores[anchors, labels], labels)


def _best_first(
    scores: NDArray[np.float32], threshold: np.float32, size: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(anchors, labels) of the scores above the threshold, best first, in portions of at most `size`, then more.

    What is sorted at once takes in all scores that equal its last one, so that the cut runs through no tie.
    """
    flat = np.flatnonzero(scores > threshold)
    values = scores.reshape(-1)[flat]
    while len(flat):
        cut = np.partition(values, -size)[-size] if len(flat) > size else threshold
        in_portion = values >= cut
        anchors, labels = np.divmod(flat[in_portion], scores.shape[1])
        order = np.lexsort((anchors, labels, -values[in_portion]))
        for start in range(0, len(order), size):
            part = order[start : start + size]
            yield anchors[part], labels[part]
        flat, values = flat[~in_portion], values[~in_portion]
        size *= 4


def _rank_in_class(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many earlier entries have the same label, for each entry."""
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], labels[order])
    ranks = np.empty_like(labels)
    ranks[order] = np.arange(len(labels)) - starts
    return ranks


def _greedy_keep(boxes: NDArray[np.float32], labels: NDArray[np.int64], threshold: np.float32) -> NDArray[np.bool_]:
    """Which boxes, given best first, greedy suppression within their class keeps.

    A box is kept when no kept better box overlaps it. Starting from "all are kept", applying that rule to all
    boxes at once settles: after n rounds the first n boxes are final, in practice after a few.
    """
    better, worse = _overlapping_pairs(boxes, labels, threshold)
    keep = np.ones(len(boxes), np.bool_)
    while True:
        settled = np.ones(len(boxes), np.bool_)
        settled[worse[keep[better]]] = False
        if np.array_equal(settled, keep):
            return keep
        keep = settled


def _overlapping_pairs(
    boxes: NDArray[np.float32], labels: NDArray[np.int64], threshold: np.float32
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indexes (better, worse) of the pairs of one class whose IoU is above the threshold."""
    order = np.argsort(labels, kind="stable")  # classes together, each best first
    before = _rank_in_class(labels)[order]  # better boxes of the class, which stand just before
    ends = np.cumsum(before)
    worse = np.repeat(np.arange(len(order)), before)
    better = worse - 1 - (np.arange(len(worse)) - np.repeat(ends - before, before))
    x0, y0, x1, y1 = np.ascontiguousarray(boxes[order].T)  # each [n]
    for low, high in ((x0, x1), (y0, y1)):  # most pairs share nothing: drop them before the arithmetic
        meet = np.minimum(high[better], high[worse]) > np.maximum(low[better], low[worse])
        better, worse = better[meet], worse[meet]
    area = (x1 - x0) * (y1 - y0)
    width = np.minimum(x1[better], x1[worse]) - np.maximum(x0[better], x0[worse])
    height = np.minimum(y1[better], y1[worse]) - np.maximum(y0[better], y0[worse])
    intersection = width * height
    with np.errstate(divide="ignore", invalid="ignore"):
        iou = intersection / (area[better] + area[worse] - intersection)
    above = iou > threshold
    return order[better[above]], order[worse[above]]
