"""The loss against values worked out by hand, and against torchvision's."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.ops import box_iou

from ssd_edge.models.loss import Targets, multibox_loss
from ssd_edge.models.matcher import match
from tests.ssd_edge.models.torchvision_pairs import WITH_STEPS, anchors_of, random_targets, resnet18_pair


def test_a_batch_without_objects() -> None:
    anchors = torch.rand(5, 4)
    assert match(torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.bool), anchors).tolist() == [[-1] * 5] * 2
    logits = torch.zeros(2, 5, 3, requires_grad=True)
    loss = multibox_loss(
        logits, torch.zeros(2, 5, 4), anchors, Targets.pad([torch.zeros(0, 4)] * 2, [torch.zeros(0).long()] * 2)
    )
    assert loss.total.item() == 0
    torch.autograd.backward(loss.total)
    assert logits.grad is not None
    assert not logits.grad.any()


def test_loss_by_hand() -> None:
    """One object on the first of six anchors: three of the five negatives count, the hardest ones."""
    anchors = torch.tensor([[10.0 * i, 0, 10.0 * i + 10, 10] for i in range(6)])
    targets = Targets.pad([torch.tensor([[1.0, 0, 11, 10]])], [torch.tensor([1])])
    logits = torch.zeros(1, 6, 3)
    logits[0, :, 0] = torch.tensor([0.0, 3, 1, 2, 4, 0])  # background of the negatives
    offsets = torch.zeros(1, 6, 4)
    loss = multibox_loss(logits, offsets, anchors, targets)
    # dx = 1 / 10 / 0.1 = 1, the other offsets 0: smooth L1 gives 0.5
    assert loss.localisation.item() == pytest.approx(0.5)
    negatives = sum(math.log(math.exp(b) + 2) - b for b in (0, 1, 2))
    assert loss.classification.item() == pytest.approx(math.log(3) + negatives, rel=1e-5)


@torch.no_grad()
def test_losses_with_another_share_of_positives() -> None:
    """1.5 negatives for each positive, and a higher threshold of the matcher."""
    ours, reference = resnet18_pair("ssd", WITH_STEPS, 4, positive_fraction=0.4, iou_thresh=0.6)
    anchors = anchors_of(ours)
    boxes, labels = random_targets(ours.config.size_hw, [5, 17], 4)
    matched = [reference.proposal_matcher(box_iou(b, anchors)) for b in boxes]
    assert any((m >= 0).sum() % 2 for m in matched)  # an odd number of positives: half a negative is rounded up
    seeded = torch.Generator().manual_seed(5)
    logits = torch.randn(2, len(anchors), 5, generator=seeded)
    offsets = torch.randn(2, len(anchors), 4, generator=seeded)
    expected = reference.compute_loss(
        [{"boxes": b, "labels": c + 1} for b, c in zip(boxes, labels, strict=True)],
        {"cls_logits": logits, "bbox_regression": offsets},
        [anchors] * 2,
        matched,
    )
    loss = multibox_loss(
        logits, offsets, anchors, Targets.pad(boxes, labels), 0.6, negatives_per_positive=(1 - 0.4) / 0.4
    )
    torch.testing.assert_close(loss.localisation, expected["bbox_regression"])
    torch.testing.assert_close(loss.classification, expected["classification"])
