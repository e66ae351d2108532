"""With the same state dict, everything the model computes equals torchvision's, for all that torchvision can build."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import mobilenet_v3_large, resnet18
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection import ssd300_vgg16, ssdlite320_mobilenet_v3_large
from torchvision.models.detection._utils import retrieve_out_channels
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD as TorchvisionSSD
from torchvision.models.detection.ssd import SSDFeatureExtractorVGG
from torchvision.models.detection.ssdlite import SSDLiteHead, _mobilenet_extractor
from torchvision.models.vgg import cfgs, make_layers
from torchvision.ops import box_iou

from ssd_edge.models.architecture import Architecture
from ssd_edge.models.backbone import Backbone
from ssd_edge.models.backbone_mobilenet import batch_norm
from ssd_edge.models.backbone_vgg import SSD512_VGG16, ExtraBlock, VGGFeatures
from ssd_edge.models.create import create_model
from ssd_edge.models.default_boxes import DefaultBoxConfig, default_boxes_xyxy, linear_scales
from ssd_edge.models.head import ssd_head, ssdlite_head
from ssd_edge.models.loss import Targets, multibox_loss
from ssd_edge.models.matcher import match
from ssd_edge.models.predict import Predictor
from ssd_edge.models.ssd import SSD, SSDConfig
from ssd_edge.runtime.nms import nms

TOLERANCE = 1e-4
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # what torchvision's SSD takes by default

Pair = tuple[SSD, nn.Module]


def published(arch: str, classes: int) -> Pair:
    """One of the two models that torchvision has under a name."""
    builders = {"ssd300_vgg16": ssd300_vgg16, "ssdlite320_mobilenet_v3_large": ssdlite320_mobilenet_v3_large}
    return create_model(arch, classes), builders[arch](weights=None, weights_backbone=None, num_classes=classes + 1)


def generator(config: DefaultBoxConfig) -> DefaultBoxGenerator:
    """torchvision's default boxes of a configuration."""
    steps = None if config.steps is None else list(config.steps)
    ratios = [list(level) for level in config.aspect_ratios]
    return DefaultBoxGenerator(ratios, scales=list(config.scales), steps=steps, clip=config.clip)


def generic(
    backbone: nn.Module, config: SSDConfig, classes: int, head: nn.Module | None = None, **options: float
) -> TorchvisionSSD:
    """torchvision's generic SSD with the settings of one of ours; `options` are its own of training."""
    return TorchvisionSSD(
        backbone,
        generator(config.default_boxes),
        config.size_hw[::-1],
        classes + 1,
        image_mean=[value / 255 for value in config.mean],
        image_std=[value / 255 for value in config.std],
        head=head,
        score_thresh=config.score_threshold,
        nms_thresh=config.nms_iou,
        detections_per_img=config.detections,
        topk_candidates=config.candidates,
        **options,
    )


def full_tail(classes: int) -> Pair:
    """torchvision's SSDlite as its builder makes it for `weights_backbone`, without fetching those."""
    ours = create_model("ssdlite320_mobilenet_v3_large_full_tail", classes)
    backbone = _mobilenet_extractor(mobilenet_v3_large(weights=None, norm_layer=batch_norm), 6, batch_norm)
    channels = retrieve_out_channels(backbone, (320, 320))
    boxes_per_cell = generator(ours.config.default_boxes).num_anchors_per_location()
    head = SSDLiteHead(channels, boxes_per_cell, classes + 1, batch_norm)
    return ours, generic(backbone, ours.config, classes, head)


def highres_vgg() -> SSDFeatureExtractorVGG:
    """torchvision's backbone for 512×512 images."""
    backbone = SSDFeatureExtractorVGG(make_layers(cfgs["D"], batch_norm=False), highres=True)
    backbone.out_channels = [512, 1024, 512, 256, 256, 256, 256]
    return backbone


def ssd512(classes: int) -> Pair:
    """Torchvision's backbone has the paper's parameters; its strides and paddings made the paper's too."""
    backbone = highres_vgg()
    for block in (3, 4):  # conv10_2, conv11_2
        backbone.extra[block][2].stride, backbone.extra[block][2].padding = (2, 2), (1, 1)
    backbone.extra[5][2].padding = (1, 1)  # conv12_2
    return create_model("ssd512_vgg16", classes), generic(backbone, SSD512_VGG16, classes)


def torchvision_highres(classes: int) -> Pair:
    """Torchvision's backbone as it is: 64, 32, 16, 8, 6, 4 and 1 cells, which the paper's steps do not fit."""
    halving = {"stride": 2, "padding": 1}
    extras = (ExtraBlock(256, 512, **halving), ExtraBlock(128, 256, **halving), ExtraBlock(128, 256))
    extras += (ExtraBlock(128, 256), ExtraBlock(128, 256, kernel=4))
    config = replace(SSD512_VGG16, default_boxes=replace(SSD512_VGG16.default_boxes, steps=None))
    ours = Architecture(config, partial(VGGFeatures, extras), ssd_head).make(classes)
    return ours, generic(highres_vgg(), config, classes)


class ResNet18Maps(Backbone):
    """A backbone of our kind: a list of feature maps."""

    channels = (128, 256, 512)

    def __init__(self) -> None:
        super().__init__()
        self.body = IntermediateLayerGetter(resnet18(weights=None), {"layer2": "0", "layer3": "1", "layer4": "2"})

    def forward(self, x: Tensor) -> list[Tensor]:
        return list(self.body(x).values())


class TorchvisionResNet18Maps(ResNet18Maps):
    """The same of torchvision's kind: maps by name."""

    out_channels = [*ResNet18Maps.channels]  # noqa: RUF012

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        return self.body(x)


def resnet18_pair(head: str, default_boxes: DefaultBoxConfig, classes: int, **options: float) -> Pair:
    """Another backbone, images that are not square, either head."""
    config = SSDConfig(
        arch="resnet18",
        size_hw=(96, 128),
        default_boxes=default_boxes,
        mean=tuple(255 * value for value in IMAGENET_MEAN),
        std=tuple(255 * value for value in IMAGENET_STD),
        score_threshold=0.05,
        nms_iou=0.4,
        candidates=50,
        detections=30,
    )
    backbone, our_head, their_head = TorchvisionResNet18Maps(), ssd_head, None
    if head == "ssdlite":
        our_head = partial(ssdlite_head, norm=batch_norm)
        per_cell = generator(default_boxes).num_anchors_per_location()
        their_head = SSDLiteHead(backbone.out_channels, per_cell, classes + 1, batch_norm)
    return Architecture(config, ResNet18Maps, our_head).make(classes), generic(
        backbone, config, classes, their_head, **options
    )


WITH_STEPS = DefaultBoxConfig(((2,), (2, 3), ()), (0.1, 0.3, 0.7, 1.2), (8, 16, 32), clip=False)
AUTOMATIC = DefaultBoxConfig(((2, 3), (1.5,), (2, 3, 4)), linear_scales(0.15, 0.9, 3))

PAIRS: dict[str, Callable[[], Pair]] = {
    **{f"ssd300-{n}": partial(published, "ssd300_vgg16", n) for n in (1, 3, 90)},
    **{f"ssdlite320-{n}": partial(published, "ssdlite320_mobilenet_v3_large", n) for n in (1, 3, 90)},
    "full-tail-3": partial(full_tail, 3),
    "ssd512-3": partial(ssd512, 3),
    "highres-3": partial(torchvision_highres, 3),
    "resnet18-ssd-4": partial(resnet18_pair, "ssd", WITH_STEPS, 4),
    "resnet18-ssdlite-4": partial(resnet18_pair, "ssdlite", AUTOMATIC, 4),
}


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Random batch-norm parameters and statistics, and scores that spread over the image.

    Fresh weights alone give nearly the same logits everywhere, and then rounding decides which box comes first. So
    the statistics are those of varied images, shaken a little, and the last layers are scaled.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        nn.init.uniform_(norm.weight, 0.8, 1.2)
        nn.init.normal_(norm.bias, std=0.1)
    width, height = model.transform.fixed_size
    images = model.transform(as_torchvision_input(varied_images(8 if norms else 1, (height, width))))[0].tensors
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


def images_of(model: SSD, batch_norm_needs: int = 1) -> Tensor:
    """uint8 [count, height, width, 3]; VGG-16 is slow, and the larger images are too: one of them."""
    return varied_images(max(1 if "vgg" in model.config.arch else 2, batch_norm_needs), model.config.size_hw)


def varied_images(count: int, size_hw: tuple[int, int]) -> Tensor:
    """Patches of light and dark with noise: in plain noise all images look alike to the coarse feature maps."""
    seeded = torch.Generator().manual_seed(7)
    patches = torch.randint(0, 256, (count, 3, 5, 5), generator=seeded).float()
    patches = nn.functional.interpolate(patches, size_hw, mode="bilinear")
    noise = 30 * torch.randn(count, 3, *size_hw, generator=seeded)
    return (patches + noise).clamp(0, 255).byte().permute(0, 2, 3, 1)


def as_torchvision_input(images: Tensor) -> list[Tensor]:
    return list(images.permute(0, 3, 1, 2) / 255)


def reference_raw(reference: nn.Module, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """torchvision's head outputs and its default boxes in pixels."""
    batch, _ = reference.transform(as_torchvision_input(images))
    features = list(reference.backbone(batch.tensors).values())
    return reference.head(features), reference.anchor_generator(batch, features)[0]


def anchors_of(model: SSD) -> Tensor:
    """Default boxes in pixels, [anchors, 4]."""
    height, width = model.config.size_hw
    return model.default_boxes_xyxy * torch.tensor([width, height, width, height])


def classes_of(reference: nn.Module) -> int:
    """Without the background."""
    return reference.head.classification_head.num_columns - 1


def random_targets(size_hw: tuple[int, int], counts: list[int], classes: int) -> tuple[list[Tensor], list[Tensor]]:
    seeded = torch.Generator().manual_seed(11)
    boxes, labels = [], []
    for count in counts:
        corner = torch.rand(count, 2, generator=seeded) * 0.7
        extent = 0.02 + torch.rand(count, 2, generator=seeded) * 0.28
        scale = torch.tensor([size_hw[1], size_hw[0]] * 2)
        boxes.append(torch.cat((corner, corner + extent), dim=1) * scale)
        labels.append(torch.randint(0, classes, (count,), generator=seeded))
    return boxes, labels


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


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("steps", [None, (8, 16, 40)])
@pytest.mark.parametrize("ratios", [((2,), (2, 3), ()), ((1.3, 2.7, 9), (2,), (3,))])
@pytest.mark.parametrize("scales", [None, (0.1, 0.5, 0.9, 1.3)])
def test_default_boxes_of_all_options(
    scales: tuple[float, ...] | None, ratios: tuple[tuple[float, ...], ...], steps: tuple[float, ...] | None, clip: bool
) -> None:
    """Against torchvision's generator; `scales` None is its automatic choice between a smallest and a largest."""
    size_hw, grids = (90, 160), [(12, 20), (6, 10), (3, 4)]
    automatic = {"min_ratio": 0.1, "max_ratio": 0.8}
    theirs = DefaultBoxGenerator([list(level) for level in ratios], **automatic, scales=scales, steps=steps, clip=clip)
    images, features = torch.zeros(1, 3, *size_hw), [torch.zeros(1, 8, *grid) for grid in grids]
    (expected,) = theirs(ImageList(images, [size_hw]), features)
    config = DefaultBoxConfig(ratios, scales or linear_scales(0.1, 0.8, levels=3), steps, clip)
    assert config.boxes_per_cell == tuple(theirs.num_anchors_per_location())
    boxes = default_boxes_xyxy(config, grids, size_hw) * torch.tensor([160, 90, 160, 90])
    torch.testing.assert_close(boxes, expected, atol=TOLERANCE, rtol=0)


def test_automatic_scales_of_a_single_level() -> None:
    assert list(linear_scales(0.2, 0.7, levels=1)) == DefaultBoxGenerator([[2]], min_ratio=0.2, max_ratio=0.7).scales
