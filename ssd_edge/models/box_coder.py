"""Box coding: offsets relative to default boxes; the SSD paper, equation 2, with the variances of its prototxt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssd_edge.box_coding import BoxCoding


def encode_boxes(boxes_xyxy: Tensor, default_boxes: Tensor, coding: BoxCoding | None = None) -> Tensor:
    """Offsets that turn default boxes into boxes.

    Args:
        boxes_xyxy, default_boxes: [..., 4] x0 y0 x1 y1, same unit.
        coding: the variances; None for the paper's. Its limits are of decoding alone.

    Returns:
        [..., 4]: dx, dy, dw, dh, divided by the variances.
    """
    variances = (coding or BoxCoding()).variances
    box_wh = boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]
    box_centre = boxes_xyxy[..., :2] + 0.5 * box_wh
    default_wh = default_boxes[..., 2:] - default_boxes[..., :2]
    default_centre = default_boxes[..., :2] + 0.5 * default_wh
    centre = (box_centre - default_centre) / default_wh / _factor(variances[:2], boxes_xyxy)
    size = torch.log(box_wh / default_wh) / _factor(variances[2:], boxes_xyxy)
    return torch.cat((centre, size), dim=-1)


def decode_boxes(offsets: Tensor, default_boxes: Tensor, coding: BoxCoding | None = None) -> Tensor:
    """Boxes from offsets; the inverse of `encode_boxes`.

    Args:
        offsets: [..., anchors, 4].
        default_boxes: [anchors, 4] x0 y0 x1 y1.
        coding: variances and limits; None for the paper's variances and torchvision's limit.

    Returns:
        [..., anchors, 4] x0 y0 x1 y1 in the unit of `default_boxes`.
    """
    coding = coding or BoxCoding()
    default_wh = default_boxes[:, 2:] - default_boxes[:, :2]
    default_centre = default_boxes[:, :2] + 0.5 * default_wh
    centre = default_centre + offsets[..., :2] * _factor(coding.variances[:2], offsets) * default_wh
    log_scale = offsets[..., 2:] * _factor(coding.variances[2:], offsets)
    if coding.min_log_scale is not None or coding.max_log_scale is not None:
        log_scale = torch.clamp(log_scale, min=coding.min_log_scale, max=coding.max_log_scale)
    half = 0.5 * torch.exp(log_scale) * default_wh
    return torch.cat((centre - half, centre + half), dim=-1)


def _factor(variances: Sequence[float], like: Tensor) -> float | Tensor:
    """A number where both are the same, which an exported graph holds as one."""
    first, second = variances
    return first if first == second else like.new_tensor([first, second])
