"""Which default box is responsible for which object."""

from __future__ import annotations

import torch
from torch import Tensor


def box_iou(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """Intersection over union of every pair.

    One coordinate at a time: rows of numbers are what processors work through fastest.

    Args:
        boxes_a: [a, 4] x0 y0 x1 y1.
        boxes_b: [b, 4], none of them empty.

    Returns:
        [a, b].
    """
    ax0, ay0, ax1, ay1 = boxes_a[:, None].unbind(2)  # [a, 1] each
    bx0, by0, bx1, by1 = boxes_b.T.contiguous().unbind(0)  # [b] each
    overlap = torch.minimum(ax1, bx1).sub_(torch.maximum(ax0, bx0)).clamp_(min=0)  # [a, b]
    overlap *= torch.minimum(ay1, by1).sub_(torch.maximum(ay0, by0)).clamp_(min=0)
    areas = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0)
    return overlap.div_(areas.sub_(overlap))


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
    batch, anchors = len(present), len(default_boxes)
    image, number = present.nonzero(as_tuple=True)  # [n] each: the objects of all images, and their index in the image
    matched = torch.full((batch * anchors,), -1, dtype=torch.int64, device=default_boxes.device)
    if len(image) == 0:
        return matched.view(batch, anchors)
    iou = box_iou(boxes_xyxy[image, number], default_boxes)  # [n, anchors]
    first = image * anchors  # place in `matched` of the image's first default box

    # Few of all pairs reach the threshold: only those are compared with each other. The first of equals wins.
    pair = (iou.view(-1) >= iou_threshold).nonzero().squeeze(1)  # [pairs]
    near, near_iou = pair // anchors, iou.view(-1)[pair]
    place = first[near] + pair % anchors
    best = near_iou.new_zeros(len(matched)).scatter_reduce_(0, place, near_iou, "amax")
    wins = (near_iou == best[place]).nonzero().squeeze(1)
    matched.scatter_reduce_(0, place[wins], number[near[wins]], "amin", include_self=False)

    # Reductions make the outcome the same on every device, in whatever order objects come.
    claims = torch.full_like(matched, -1).scatter_reduce_(0, first + iou.argmax(1), number, "amax")
    return torch.where(claims >= 0, claims, matched).view(batch, anchors)
