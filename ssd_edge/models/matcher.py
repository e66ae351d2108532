"""Which default box is responsible for which object."""

from __future__ import annotations

import torch
from torch import Tensor


def box_iou(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """Intersection over union of every pair.

    Args:
        boxes_a: [batch, a, 4] x0 y0 x1 y1.
        boxes_b: [b, 4].

    Returns:
        [batch, a, b]; 0 where both boxes are empty.
    """
    overlap_x0y0 = torch.maximum(boxes_a[:, :, None, :2], boxes_b[:, :2])  # [batch, a, b, 2]
    overlap_x1y1 = torch.minimum(boxes_a[:, :, None, 2:], boxes_b[:, 2:])
    overlap_wh = (overlap_x1y1 - overlap_x0y0).clamp(min=0)
    overlap = overlap_wh[..., 0] * overlap_wh[..., 1]  # [batch, a, b]
    area_a = (boxes_a[..., 2:] - boxes_a[..., :2]).prod(-1)
    area_b = (boxes_b[..., 2:] - boxes_b[..., :2]).prod(-1)
    return torch.nan_to_num(overlap / (area_a[:, :, None] + area_b - overlap))


def match(boxes_xyxy: Tensor, present: Tensor, default_boxes: Tensor, iou_threshold: float = 0.5) -> Tensor:
    """Match objects to default boxes, a whole batch at once; section 2.2 of the SSD paper.

    Every default box takes the object it overlaps most, if the IoU reaches the threshold. Then every object
    takes its best default box whatever the IoU, so that none goes unlearnt; where two objects claim one default
    box, the later object wins (torchvision's `SSDMatcher`).

    Args:
        boxes_xyxy: [batch, objects, 4] x0 y0 x1 y1, padded to the most objects in the batch.
        present: bool [batch, objects], False for padding.
        default_boxes: [anchors, 4], same unit.

    Returns:
        int64 [batch, anchors]: index of the object, or -1 for background.
    """
    batch, objects = present.shape
    anchors = len(default_boxes)
    if objects == 0:
        return torch.full((batch, anchors), -1, dtype=torch.int64, device=default_boxes.device)
    iou = box_iou(boxes_xyxy, default_boxes).masked_fill(~present[..., None], -1.0)  # [batch, objects, anchors]
    best_iou, best_object = iou.max(dim=1)  # [batch, anchors]
    matched = torch.where(best_iou >= iou_threshold, best_object, -1)
    # Object indices at each object's own best default box; the maximum makes the later object win, on any device.
    best_anchor = iou.argmax(dim=2)  # [batch, objects]
    objects_index = torch.arange(objects, device=iou.device).expand(batch, -1)
    claims = torch.where(present, objects_index, -1)
    claimed = torch.full_like(matched, -1).scatter_reduce(1, best_anchor, claims, "amax")
    return torch.where(claimed >= 0, claimed, matched)
