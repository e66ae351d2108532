"""With the same state dict, everything the model computes equals torchvision's, for all that torchvision can build."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from ssd_edge.models.loss import Targets, multibox_loss
from ssd_edge.models.matcher import match
from ssd_edge.models.predict import Predictor
from ssd_edge.runtime.nms import nms
from tests.ssd_edge.models.torchvision_pairs import (
    PAIRS,
    Pair,
    Reference,
    anchors_of,
    as_torchvision_input,
    images_of,
    random_targets,
    randomise,
)

TOLERANCE = 1e-4

SLOW = ("ssd512-3", "highres-3")


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in PAIRS]
)
def pair(request: pytest.FixtureRequest) -> Pair:
    """Our model and torchvision's, same random weights and batch-norm statistics."""
    torch.manual_seed(3)
    ours, reference = PAIRS[request.param]()
    randomise(reference)
    ours.load_state_dict(reference.state_dict(), strict=True)
    return ours, reference


def reference_raw(reference: Reference, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """torchvision's head outputs and its default boxes in pixels."""
    batch, _ = reference.transform(as_torchvision_input(images))
    features = list(reference.backbone(batch.tensors).values())
    return reference.head(features), reference.anchor_generator(batch, features)[0]


def classes_of(reference: Reference) -> int:
    """Without the background."""
    return int(reference.head.classification_head.num_columns) - 1


@torch.no_grad()
def test_logits_offsets_and_default_boxes(pair: Pair) -> None:
    """In double precision where there is batch norm: in a random network it makes 1e-4 out of the last bit."""
    ours, reference = pair[0].eval(), pair[1].eval()
    images = images_of(ours).float()
    if any(isinstance(module, nn.BatchNorm2d) for module in ours.modules()):
        ours, reference, images = deepcopy(ours).double(), deepcopy(reference).double(), images.double()
    expected, expected_anchors = reference_raw(reference, images)
    raw = ours(images.permute(0, 3, 1, 2))
    torch.testing.assert_close(raw.cls_logits, expected["cls_logits"], atol=TOLERANCE, rtol=TOLERANCE)
    torch.testing.assert_close(raw.bbox_regression, expected["bbox_regression"], atol=TOLERANCE, rtol=TOLERANCE)
    torch.testing.assert_close(anchors_of(ours), expected_anchors, atol=TOLERANCE, rtol=0)


def test_losses_in_training_mode(pair: Pair) -> None:
    """So that batch statistics count too; the last image has no object."""
    ours, reference = pair[0].train(), pair[1].train()
    images = images_of(ours, batch_norm_needs=2)
    boxes, labels = random_targets(ours.config.size_hw, [17, 0], classes_of(reference))
    before = {name: value.clone() for name, value in reference.state_dict().items()}
    with torch.no_grad():
        expected = reference(
            as_torchvision_input(images), [{"boxes": b, "labels": c + 1} for b, c in zip(boxes, labels, strict=True)]
        )
        raw = ours(images.permute(0, 3, 1, 2).float())
        loss = multibox_loss(raw.cls_logits, raw.bbox_regression, anchors_of(ours), Targets.pad(boxes, labels))
    for model in (ours, reference):
        model.load_state_dict(before)
    torch.testing.assert_close(loss.localisation, expected["bbox_regression"], atol=TOLERANCE, rtol=TOLERANCE)
    torch.testing.assert_close(loss.classification, expected["classification"], atol=TOLERANCE, rtol=TOLERANCE)


def test_gradients_of_the_loss(pair: Pair) -> None:
    """Of both losses by the same raw outputs: what training sends back into the network."""
    ours, reference = pair
    anchors, classes = anchors_of(ours), classes_of(reference)
    boxes, labels = random_targets(ours.config.size_hw, [4, 17], classes)
    targets = [{"boxes": b, "labels": c + 1} for b, c in zip(boxes, labels, strict=True)]
    matched = [reference.proposal_matcher(box_iou(b, anchors)) for b in boxes]
    seeded = torch.Generator().manual_seed(5)
    logits = torch.randn(2, len(anchors), classes + 1, generator=seeded)
    offsets = torch.randn(2, len(anchors), 4, generator=seeded)

    def our_loss(logits: Tensor, offsets: Tensor) -> Tensor:
        return multibox_loss(logits, offsets, anchors, Targets.pad(boxes, labels)).total

    def their_loss(logits: Tensor, offsets: Tensor) -> Tensor:
        outputs = {"cls_logits": logits, "bbox_regression": offsets}
        return torch.stack(list(reference.compute_loss(targets, outputs, [anchors] * 2, matched).values())).sum()

    def gradients(loss: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, ...]:
        inputs = (logits.clone().requires_grad_(), offsets.clone().requires_grad_())
        return torch.autograd.grad(loss(*inputs), inputs)

    for mine, theirs in zip(gradients(our_loss), gradients(their_loss), strict=True):
        assert theirs.abs().max() > 0.001
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=TOLERANCE)


def test_matches(pair: Pair) -> None:
    ours, reference = pair
    boxes, labels = random_targets(ours.config.size_hw, [30, 3], classes_of(reference))
    boxes[1] = boxes[1][[0, 0, 2]]  # two objects in one place claim the same default box: the later one gets it
    anchors = anchors_of(ours)
    targets = Targets.pad(boxes, labels)
    matched = match(targets.boxes_xyxy, targets.labels >= 0, anchors)
    for row, image_boxes in zip(matched, boxes, strict=True):
        expected = reference.proposal_matcher(box_iou(image_boxes, anchors))
        assert torch.equal(row, expected)
    assert (matched >= 0).any()


@torch.no_grad()
def test_detections(pair: Pair) -> None:
    ours, reference = pair[0].eval(), pair[1].eval()
    images = images_of(ours)
    expected = reference(as_torchvision_input(images))
    boxes, scores = Predictor(ours)(images)
    height, width = ours.config.size_hw
    scale = np.array([width, height, width, height], np.float32)
    for image_boxes, image_scores, reference_detections in zip(boxes.numpy(), scores.numpy(), expected, strict=True):
        c = ours.config
        kept = nms(
            np.clip(image_boxes * scale, 0, scale),
            image_scores,
            score_threshold=c.score_threshold,
            iou_threshold=c.nms_iou,
            candidates=c.candidates,
            detections=c.detections,
        )
        assert len(kept.scores) == len(reference_detections["scores"]) > 0
        np.testing.assert_allclose(kept.scores, reference_detections["scores"], atol=TOLERANCE)
        # Scores that differ by less than the tolerance may swap places: compare as sets, by nearest box.
        reference_boxes = reference_detections["boxes"].numpy() / scale
        theirs = np.column_stack((reference_boxes, reference_detections["labels"].numpy() - 1))
        mine = np.column_stack((kept.boxes_xyxy / scale, kept.labels))
        distance = np.abs(mine[:, None] - theirs[None]).max(2)
        assert distance.min(1).max() < TOLERANCE
        assert distance.min(0).max() < TOLERANCE
