"""Boxes and scores that are hard to suppress right."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.runtime.nms_inputs import random_boxes

GRIDS = (None, 2, 4, 5, 7)
SPECIAL_BOXES = np.array(
    [
        [np.nan, 0, 1, 1],
        [0, 0, 1, np.nan],
        [-np.inf, 0, np.inf, 1],
        [0.2, 0.2, 0.2, 0.2],
        [0.8, 0.8, 0.1, 0.1],  # inside out
        [0.8, 0.1, 0.1, 0.8],
        [-3, -3, -2, -2],  # outside the image
        [-0.0, 0.0, 2.0, 1e-30],
    ],
    np.float32,
)
SPECIAL_SCORES = np.array([np.nan, np.inf, -np.inf, -1, 0, 1e-42, 0.1, 0.5], np.float32)


def adversarial_case(rng: np.random.Generator, anchors: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 [anchors, 4] and [anchors, classes]: each of the kinds below is likely, alone and together."""
    boxes = random_boxes(rng, anchors, grid=GRIDS[rng.choice(len(GRIDS))])  # on a grid IoUs are at thresholds
    scores: np.ndarray = rng.random((anchors, classes)).astype(np.float32)
    if rng.random() < 0.15:
        boxes[:] = boxes[0]
    if rng.random() < 0.3:
        boxes = boxes * np.float32(1.5) - np.float32(0.25)  # to be clipped
    if rng.random() < 0.3:
        where = rng.random(anchors) < 0.4
        boxes[where] = SPECIAL_BOXES[rng.integers(0, len(SPECIAL_BOXES), where.sum())]
    if rng.random() < 0.4:
        scores = np.round(scores * rng.integers(1, 4)) / 4  # many equal
    if rng.random() < 0.1:
        scores[:] = rng.choice([0.0, 0.1, 0.6])  # all equal; 0: none is above the threshold
    if rng.random() < 0.3:
        where = rng.random(scores.shape) < rng.choice([0.1, 0.9])
        scores[where] = SPECIAL_SCORES[rng.integers(0, len(SPECIAL_SCORES), where.sum())]
    return boxes, scores.astype(np.float32)


def adversarial_batch(seed: int, batch: int = 8) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Several such cases as float32 [batch, anchors, 4] and [batch, anchors, classes], and settings."""
    rng = np.random.default_rng(seed)
    anchors, classes = int(rng.choice([1, 2, 7, 31, 33, 70, 130])), int(rng.choice([1, 1, 2, 5]))
    boxes, scores = zip(*[adversarial_case(rng, anchors, classes) for _ in range(batch)], strict=True)
    settings = {
        "score_threshold": float(rng.choice([0.0, 0.1, 0.5])),
        "iou_threshold": float(rng.choice([0.0, 0.2, 0.25, 1 / 3, 0.5, 1.0])),
        "candidates": int(rng.choice([1, 3, 33, 1000])),
        "detections": int(rng.choice([1, 7, 40, 1000])),
        "iou_epsilon": float(rng.choice([0.0, 0.0, 0.0, 0.0, 1e-5, 0.02])),
        "clip_first": bool(rng.integers(4)),
    }
    return np.stack(boxes), np.stack(scores), settings
