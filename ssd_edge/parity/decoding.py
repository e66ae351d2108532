"""Decoding in NumPy, by which a model's own logits and offsets tell whether it decodes as the reference does.

The variances and the limit are those of `ssd_edge.models.box_coder`, which needs PyTorch; a test keeps them equal.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

VARIANCE_CENTRE = 0.1
VARIANCE_SIZE = 0.2
LARGEST_LOG_SCALE = math.log(1000.0 / 16)


def default_boxes_of(boxes: NDArray[np.float32], offsets: NDArray[np.float32]) -> NDArray[np.float64]:
    """The default boxes with which `offsets` decode into `boxes`.

    Any model that gives both tells them, so no architecture has to be known.

    Args:
        boxes: [anchors, 4], x0 y0 x1 y1.
        offsets: [anchors, 4], dx dy dw dh, divided by the variances.

    Returns:
        float64 [anchors, 4], centre x, centre y, width, height in the unit of `boxes`.
    """
    low, high = boxes[:, :2].astype(np.float64), boxes[:, 2:].astype(np.float64)
    size_wh = (high - low) / _scale(offsets)
    centre = (low + high) / 2 - VARIANCE_CENTRE * offsets[:, :2] * size_wh
    return np.concatenate([centre, size_wh], axis=1)


def decode(offsets: NDArray[np.float32], default_cxcywh: NDArray[np.float64]) -> NDArray[np.float32]:
    """Boxes [anchors, 4], x0 y0 x1 y1 in the unit of the default boxes."""
    centre = default_cxcywh[:, :2] + VARIANCE_CENTRE * offsets[:, :2] * default_cxcywh[:, 2:]
    half = _scale(offsets) * default_cxcywh[:, 2:] / 2
    return np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)


def scores_of(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Softmax over the last axis without its first column, the background: [..., classes + 1] -> [..., classes]."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    scores: NDArray[np.float32] = (shifted / shifted.sum(axis=-1, keepdims=True))[..., 1:]
    return scores


def _scale(offsets: NDArray[np.float32]) -> NDArray[np.float64]:
    """How many times as wide and high as the default box, [anchors, 2]."""
    scale: NDArray[np.float64] = np.exp(
        np.minimum(VARIANCE_SIZE * offsets[:, 2:].astype(np.float64), LARGEST_LOG_SCALE)
    )
    return scale
