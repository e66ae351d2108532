"""Decoding in NumPy, by which a model's own logits and offsets tell whether it decodes as the reference does.

The same as `ssd_edge.models.box_coder`, which needs PyTorch; a test keeps them equal.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ssd_edge.box_coding import BoxCoding
from ssd_edge.card import SIGMOID


def default_boxes_of(
    boxes: NDArray[np.float32], offsets: NDArray[np.float32], coding: BoxCoding
) -> NDArray[np.float64]:
    """The default boxes with which `offsets` decode into `boxes`.

    Any model that gives both tells them, so no architecture has to be known.

    Args:
        boxes: [anchors, 4], x0 y0 x1 y1.
        offsets: [anchors, 4], dx dy dw dh, divided by the variances.

    Returns:
        float64 [anchors, 4], centre x, centre y, width, height in the unit of `boxes`.
    """
    low, high = boxes[:, :2].astype(np.float64), boxes[:, 2:].astype(np.float64)
    size_wh = (high - low) / _scale(offsets, coding)
    centre = (low + high) / 2 - np.array(coding.variances[:2]) * offsets[:, :2] * size_wh
    return np.concatenate([centre, size_wh], axis=1)


def decode(offsets: NDArray[np.float32], default_cxcywh: NDArray[np.float64], coding: BoxCoding) -> NDArray[np.float32]:
    """Boxes [anchors, 4], x0 y0 x1 y1 in the unit of the default boxes."""
    moved = np.array(coding.variances[:2]) * offsets[:, :2] * default_cxcywh[:, 2:]
    centre = default_cxcywh[:, :2] + moved
    half = _scale(offsets, coding) * default_cxcywh[:, 2:] / 2
    return np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)


def scores_of(logits: NDArray[np.float32], score_function: str) -> NDArray[np.float32]:
    """Softmax or sigmoid over the last axis without its first column, the background: [..., n + 1] -> [..., n]."""
    if score_function == SIGMOID:
        with np.errstate(over="ignore"):  # of very low logits, whose score is 0
            return (1 / (1 + np.exp(-logits[..., 1:]))).astype(np.float32)
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    scores: NDArray[np.float32] = (shifted / shifted.sum(axis=-1, keepdims=True))[..., 1:]
    return scores


def _scale(offsets: NDArray[np.float32], coding: BoxCoding) -> NDArray[np.float64]:
    """How many times as wide and high as the default box, [anchors, 2]."""
    low = -np.inf if coding.min_log_scale is None else coding.min_log_scale
    high = np.inf if coding.max_log_scale is None else coding.max_log_scale
    log_scale = np.array(coding.variances[2:]) * offsets[:, 2:].astype(np.float64)
    scale: NDArray[np.float64] = np.exp(log_scale.clip(low, high))
    return scale
