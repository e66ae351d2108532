"""The multibox loss: smooth L1 on matched boxes, cross-entropy with hard negatives; equations 1–3 of the paper."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ssd_edge.models.box_coder import encode_boxes
from ssd_edge.models.matcher import match

NEGATIVES_PER_POSITIVE = 3  # section 2.2, "Hard negative mining"
BACKGROUND = 0  # column of the class logits; real classes follow


class Targets(NamedTuple):
    """Objects of a batch, padded to the most objects in one image.

    `boxes_xyxy` float32 [batch, objects, 4]; `labels` int64 [batch, objects], real classes from 0; -1 is padding.
    """

    boxes_xyxy: Tensor
    labels: Tensor

    @classmethod
    def pad(cls, boxes_xyxy: list[Tensor], labels: list[Tensor]) -> Targets:
        """From one [n, 4] and one [n] tensor an image."""
        return cls(
            torch.nn.utils.rnn.pad_sequence(boxes_xyxy, batch_first=True),
            torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-1),
        )

    def to(self, device: torch.device) -> Targets:
        """Both tensors on another device."""
        return Targets(self.boxes_xyxy.to(device), self.labels.to(device))


class MultiboxLoss(NamedTuple):
    """Both parts of the loss, each summed and divided by the number of matched default boxes in the batch."""

    localisation: Tensor
    classification: Tensor

    @property
    def total(self) -> Tensor:
        """The loss that is minimised (alpha = 1 in the paper's equation 1)."""
        return self.localisation + self.classification


def multibox_loss(
    cls_logits: Tensor,
    bbox_regression: Tensor,
    default_boxes: Tensor,
    targets: Targets,
    iou_threshold: float = 0.5,
    *,
    negatives_per_positive: float = NEGATIVES_PER_POSITIVE,
    matched: Tensor | None = None,
    divisor: Tensor | None = None,
) -> MultiboxLoss:
    """The loss of a batch, without a loop over images.

    Images without objects add nothing, as in the paper: the number of negatives is a multiple of that of
    positives, three times by default. With no object in the whole batch the loss is 0.

    Args:
        cls_logits: [batch, anchors, classes + 1], background first.
        bbox_regression: [batch, anchors, 4] offsets.
        default_boxes: [anchors, 4] x0 y0 x1 y1, same unit as `targets.boxes_xyxy`.
        negatives_per_positive: negatives that count for each positive of the same image, rounded up in the image's
            sum; torchvision's `positive_fraction` p is (1 - p) / p of them.
        matched: [batch, anchors] from `match`, where that is known already.
        divisor: matched default boxes to divide by, where this is part of a larger batch; None: those of this batch.
    """
    cls_logits, bbox_regression = cls_logits.float(), bbox_regression.float()
    if matched is None:
        matched = match(targets.boxes_xyxy, targets.labels >= 0, default_boxes, iou_threshold)  # [batch, anchors]
    positive = matched >= 0
    image_index, anchor_index = positive.nonzero(as_tuple=True)  # [positives] each
    object_index = matched[image_index, anchor_index]
    if divisor is None:
        divisor = torch.tensor(len(object_index), device=cls_logits.device)
    divisor = divisor.clamp(min=1)

    wanted = encode_boxes(targets.boxes_xyxy[image_index, object_index], default_boxes[anchor_index])
    localisation = F.smooth_l1_loss(bbox_regression[image_index, anchor_index], wanted, reduction="sum")

    # Every anchor's loss if it were background; for positives replaced by that of their class.
    log_sum = torch.logsumexp(cls_logits, dim=2)  # [batch, anchors]
    background = log_sum - cls_logits[..., BACKGROUND]
    label_column = targets.labels[image_index, object_index] + 1
    foreground = (log_sum[positive] - cls_logits[image_index, anchor_index, label_column]).sum()
    hardest = _hardest_negatives(background, positive, negatives_per_positive)
    return MultiboxLoss(localisation / divisor, (foreground + hardest) / divisor)


def _hardest_negatives(background_loss: Tensor, positive: Tensor, per_positive: float) -> Tensor:
    """Sum of the largest losses among the negatives, `per_positive` for each positive of the same image."""
    wanted = (per_positive * positive.sum(1)).ceil().long()
    negatives = torch.minimum(wanted, (~positive).sum(1))  # [batch]
    most = int(negatives.max())
    values = background_loss.masked_fill(positive, -torch.inf).topk(most, dim=1).values  # [batch, most]
    taken = torch.arange(most, device=values.device) < negatives[:, None]
    return values.masked_fill(~taken, 0.0).sum()
