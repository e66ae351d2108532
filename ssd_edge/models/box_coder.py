"""Box coding: offsets relative to default boxes, with the paper's variances 0.1 and 0.2."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Divisors of centre and size offsets; the original prototxt's prior_variance (0.1, 0.1, 0.2, 0.2).
VARIANCE_CENTRE = 0.1
VARIANCE_SIZE = 0.2
# exp() of a larger value would make boxes of more than 1000 / 16 times the default box (torchvision's BoxCoder).
LARGEST_LOG_SCALE = math.log(1000.0 / 16)


def encode_boxes(boxes_xyxy: Tensor, default_boxes: Tensor) -> Tensor:
    """Offsets that turn default boxes into boxes.

    Args:
        boxes_xyxy, default_boxes: [..., 4] x0 y0 x1 y1, same unit.

    Returns:
        [..., 4]: dx, dy, dw, dh, divided by the variances.
    """
    box_wh = boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]
    box_centre = boxes_xyxy[..., :2] + 0.5 * box_wh
    default_wh = default_boxes[..., 2:] - default_boxes[..., :2]
    default_centre = default_boxes[..., :2] + 0.5 * default_wh
    centre = (box_centre - default_centre) / default_wh / VARIANCE_CENTRE
    size = torch.log(box_wh / default_wh) / VARIANCE_SIZE
    return torch.cat((centre, size), dim=-1)


def decode_boxes(offsets: Tensor, default_boxes: Tensor) -> Tensor:
    """Boxes from offsets; the inverse of `encode_boxes`.

    Args:
        offsets: [..., anchors, 4].
        default_boxes: [anchors, 4] x0 y0 x1 y1.

    Returns:
        [..., anchors, 4] x0 y0 x1 y1 in the unit of `default_boxes`.
    """
    default_wh = default_boxes[:, 2:] - default_boxes[:, :2]
    default_centre = default_boxes[:, :2] + 0.5 * default_wh
    centre = default_centre + offsets[..., :2] * VARIANCE_CENTRE * default_wh
    log_scale = torch.clamp(offsets[..., 2:] * VARIANCE_SIZE, max=LARGEST_LOG_SCALE)
    half = 0.5 * torch.exp(log_scale) * default_wh
    return torch.cat((centre - half, centre + half), dim=-1)
