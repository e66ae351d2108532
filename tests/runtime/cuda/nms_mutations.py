"""Errors in kernels.cu that a test of the suppression has to find: (right, wrong) text."""

from __future__ import annotations

MUTATIONS = {
    "IoU at the threshold": [("both) > iou_threshold", "both) >= iou_threshold")],
    "order of IoU's sum": [
        ("__fsub_rn(__fadd_rn(area(a), area(b)), intersection)", "__fadd_rn(area(a), area(b) - intersection)")
    ],
    "score at the threshold": [("(score[k] > score_threshold)", "(score[k] >= score_threshold)")],
    "equal scores": [("(unsigned)~class_anchor", "class_anchor"), ("return ~(unsigned)key", "return (unsigned)key")],
    "candidates": [("least_wanted(keys, count, limit,", "least_wanted(keys, count, limit + 1,")],
    "all keys of a digit": [("found[2] = reached == wanted", "found[2] = reached >= wanted")],
    "a warp's place among the kept": [
        ("shared.unsorted[start + __popc(lanes &", "shared.unsorted[start + __popc(ALL &")
    ],
    "order of two runs": [("if (run != i / WARP * WARP) rank", "if (run < i / WARP * WARP) rank")],
    "the dropped drop": [("open && !(mine_overlaps & stays)", "open && !mine_overlaps")],
    "boxes of later tiles": [("drop = overlap(box[tile + __ffs(left) - 1]", "drop = overlap(box[tile]")],
    "lanes of one class": [("first_lane = lane == __ffs(lanes[k]) - 1", "first_lane = lane == 0")],
    "NaN in a box": [(" || box.w != box.w", "")],
    "boxes beyond the image": [("value > high ? high : value", "value")],
    "boxes clipped behind it": [("% anchors], low, high)", "% anchors], 0, 1)")],
    "more union": [("intersection), iou_epsilon)", "intersection), 0.0f)")],
}
