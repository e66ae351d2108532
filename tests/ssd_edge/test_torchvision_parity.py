"""With the same state dict, everything the model computes equals torchvision's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import ssd300_vgg16, ssdlite320_mobilenet_v3_large
from torchvision.ops import box_iou

from ssd_edge.models.create import create_model
from ssd_edge.models.loss import Targets, multibox_loss
from ssd_edge.models.matcher import match
from ssd_edge.models.predict import Predictor
from ssd_edge.models.ssd import SSD
from ssd_edge.runtime.nms import nms

TOLERANCE = 1e-4
REFERENCES = {
    "ssd300_vgg16": ssd300_vgg16,
    "ssdlite320_mobilenet_v3_large": ssdlite320_mobilenet_v3_large,
}


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Random batch-norm parameters and statistics, and scores that spread over the image.

    Fresh weights alone give nearly the same logits everywhere, and then rounding decides which box comes first. So
    the statistics are those of random images, shaken a little, and the last layers are scaled.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        nn.init.uniform_(norm.weight, 0.8, 1.2)
        nn.init.normal_(norm.bias, std=0.1)
    height, width = model.transform.fixed_size
    images = model.transform(list(torch.rand(8, 3, height, width)))[0].tensors
    if norms:
        model.head(list(model.train().backbone(images).values()))
    for norm in norms:
        norm.momentum = 0.03  # torchvision's SSDLite
        norm.running_mean += 0.1 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
        norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.8, 1.2)
    features = list(model.eval().backbone(images).values())
    for head, spread in ((model.head.classification_head, 1.5), (model.head.regression_head, 1.0)):
        for level, feature in zip(head.module_list, features, strict=True):
            last = level[-1] if isinstance(level, nn.Sequential) else level
            last.weight *= spread / level(feature).std()


@pytest.fixture(scope="module", params=[("ssd300_vgg16", 5), ("ssdlite320_mobilenet_v3_large", 20)])
def pair(request: pytest.FixtureRequest) -> tuple[SSD, nn.Module]:
    """Our model and torchvision's, same random weights and batch-norm statistics."""
    arch, classes = request.param
    torch.manual_seed(3)
    reference = REFERENCES[arch](weights=None, weights_backbone=None, num_classes=classes + 1)
    randomise(reference)
    ours = create_model(arch, classes)
    ours.load_state_dict(reference.state_dict(), strict=True)
    return ours, reference


def random_images(model: SSD, count: int = 2) -> Tensor:
    """uint8 [count, height, width, 3]"""
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, 256, (count, *model.config.size_hw, 3), generator=generator, dtype=torch.uint8)


def as_torchvision_input(images: Tensor) -> list[Tensor]:
    return list(images.permute(0, 3, 1, 2).float() / 255)


def reference_raw(reference: nn.Module, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """torchvision's head outputs and its default boxes in pixels."""
    batch, _ = reference.transform(as_torchvision_input(images))
    features = list(reference.backbone(batch.tensors).values())
    return reference.head(features), reference.anchor_generator(batch, features)[0]


def anchors_of(model: SSD) -> Tensor:
    """Default boxes in pixels, [anchors, 4]."""
    height, width = model.config.size_hw
    return model.default_boxes_xyxy * torch.tensor([width, height, width, height])


def random_targets(size_hw: tuple[int, int], counts: list[int], classes: int) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(11)
    boxes, labels = [], []
    for count in counts:
        corner = torch.rand(count, 2, generator=generator) * 0.7
        extent = 0.02 + torch.rand(count, 2, generator=generator) * 0.28
        scale = torch.tensor([size_hw[1], size_hw[0]] * 2)
        boxes.append(torch.cat((corner, corner + extent), dim=1) * scale)
        labels.append(torch.randint(0, classes, (count,), generator=generator))
    return boxes, labels


@torch.no_grad()
def test_logits_offsets_and_default_boxes(pair: tuple[SSD, nn.Module]) -> None:
    ours, reference = pair[0].eval(), pair[1].eval()
    images = random_images(ours)
    expected, expected_anchors = reference_raw(reference, images)
    raw = ours(images.permute(0, 3, 1, 2).float())
    torch.testing.assert_close(raw.cls_logits, expected["cls_logits"], atol=TOLERANCE, rtol=TOLERANCE)
    torch.testing.assert_close(raw.bbox_regression, expected["bbox_regression"], atol=TOLERANCE, rtol=TOLERANCE)
    torch.testing.assert_close(anchors_of(ours), expected_anchors, atol=TOLERANCE, rtol=0)


def test_losses_in_training_mode(pair: tuple[SSD, nn.Module]) -> None:
    """So that batch statistics count too; the third image has no object."""
    ours, reference = pair[0].train(), pair[1].train()
    classes = reference.head.classification_head.num_columns - 1
    boxes, labels = random_targets(ours.config.size_hw, [4, 17, 0], classes)
    images = random_images(ours, 3)
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


def test_gradients_of_the_loss(pair: tuple[SSD, nn.Module]) -> None:
    """Of both losses by the same raw outputs: what training sends back into the network."""
    ours, reference = pair
    anchors = anchors_of(ours)
    boxes, labels = random_targets(ours.config.size_hw, [4, 17], 5)
    targets = [{"boxes": b, "labels": c + 1} for b, c in zip(boxes, labels, strict=True)]
    matched = [reference.proposal_matcher(box_iou(b, anchors)) for b in boxes]
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(2, len(anchors), 6, generator=generator)
    offsets = torch.randn(2, len(anchors), 4, generator=generator)

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


def test_matches(pair: tuple[SSD, nn.Module]) -> None:
    ours, reference = pair
    boxes, labels = random_targets(ours.config.size_hw, [30, 3], 5)
    boxes[1] = boxes[1][[0, 0, 2]]  # two objects in one place claim the same default box: the later one gets it
    anchors = anchors_of(ours)
    targets = Targets.pad(boxes, labels)
    matched = match(targets.boxes_xyxy, targets.labels >= 0, anchors)
    for row, image_boxes in zip(matched, boxes, strict=True):
        expected = reference.proposal_matcher(box_iou(image_boxes, anchors))
        assert torch.equal(row, expected)
    assert (matched >= 0).any()


@torch.no_grad()
def test_detections(pair: tuple[SSD, nn.Module]) -> None:
    ours, reference = pair[0].eval(), pair[1].eval()
    images = random_images(ours)
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
