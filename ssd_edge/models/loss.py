"""The multibox loss: smooth L1 on matched boxes, cross-entropy with hard negatives; equations 1–3 of the paper."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ssd_edge.box_coding import BoxCoding
from ssd_edge.models.box_coder import encode_boxes
from ssd_edge.models.matcher import match

NEGATIVES_PER_POSITIVE = 3  # section 2.2, "Hard negative mining"
FEW_COLUMNS = 8
LARGEST_LOG_ODDS = 80.0  # the exponential of 88 is infinite in float32
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
    coding: BoxCoding | None = None,
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
        coding: the model's variances; None for the paper's.
        matched: [batch, anchors] from `match`, where that is known already.
        divisor: matched default boxes to divide by, where this is part of a larger batch; None: those of this batch.
    """
    if matched is None:
        matched = match(targets.boxes_xyxy, targets.labels >= 0, default_boxes, iou_threshold)  # [batch, anchors]
    positive = matched >= 0
    image, anchor = positive.nonzero(as_tuple=True)  # [positives] each
    number = matched[image, anchor]
    if divisor is None:
        divisor = torch.tensor(len(number), device=cls_logits.device)
    divisor = divisor.clamp(min=1)
    flat = image * len(default_boxes) + anchor  # row of a positive among those of all images

    wanted = encode_boxes(targets.boxes_xyxy[image, number], default_boxes[anchor], coding)
    offsets = bbox_regression.flatten(0, 1).index_select(0, flat).float()  # [positives, 4]
    localisation = F.smooth_l1_loss(offsets, wanted, reduction="sum")

    # Only the rows that count are differentiated: the hardest negatives are found without gradients first.
    hardest = _hardest_negatives(cls_logits.detach(), positive, negatives_per_positive)  # [negatives]
    rows = cls_logits.flatten(0, 1).index_select(0, torch.cat((flat, hardest))).float()
    columns = torch.cat((targets.labels[image, number] + 1, torch.full_like(hardest, BACKGROUND)))
    classification = F.cross_entropy(rows, columns, reduction="sum")
    return MultiboxLoss(localisation / divisor, classification / divisor)


def _hardest_negatives(cls_logits: Tensor, positive: Tensor, per_positive: float) -> Tensor:
    """The negatives with the largest losses, `per_positive` for each positive of the same image.

    Returns:
        int64 [negatives]: their rows among those of all images.
    """
    positives = positive.sum(1)
    negatives = torch.minimum((per_positive * positives).ceil().long(), positive.shape[1] - positives)  # [batch]
    most = int(negatives.max())
    hardness = _hardness(cls_logits.float()).masked_fill_(positive, -torch.inf)
    anchor = hardness.topk(most, dim=1).indices  # [batch, most]
    taken = torch.arange(most, device=anchor.device) < negatives[:, None]
    first = torch.arange(len(anchor), device=anchor.device)[:, None] * cls_logits.shape[1]
    return (first + anchor)[taken]


def _hardness(cls_logits: Tensor) -> Tensor:
    """What grows with the loss of a default box as background; [batch, anchors].

    Where there are few classes, the sum of their odds against the background, class by class: softmax works along the
    columns, and has little to do at once there.
    """
    if cls_logits.shape[2] > FEW_COLUMNS:
        return -torch.log_softmax(cls_logits, dim=2)[..., BACKGROUND]
    background, *classes = cls_logits.unbind(2)  # [batch, anchors] each
    odds = torch.zeros_like(background)
    for logits in classes:
        odds += (logits - background).clamp_(max=LARGEST_LOG_ODDS).exp_()
    return odds
