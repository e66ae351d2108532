"""Pairs of models: one of ours, and the one of torchvision that computes the same."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import mobilenet_v3_large, resnet18
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection import ssd300_vgg16, ssdlite320_mobilenet_v3_large
from torchvision.models.detection._utils import retrieve_out_channels
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD as TorchvisionSSD
from torchvision.models.detection.ssd import SSDFeatureExtractorVGG
from torchvision.models.detection.ssdlite import SSDLiteHead, _mobilenet_extractor
from torchvision.models.vgg import cfgs, make_layers

from ssd_edge.models.architecture import Architecture
from ssd_edge.models.backbone import Backbone
from ssd_edge.models.backbone_mobilenet import batch_norm
from ssd_edge.models.backbone_vgg import SSD512_VGG16, ExtraBlock, VGGFeatures
from ssd_edge.models.create import create_model
from ssd_edge.models.default_boxes import DefaultBoxConfig, linear_scales
from ssd_edge.models.head import ssd_head, ssdlite_head
from ssd_edge.models.ssd import SSD, SSDConfig

# What torchvision's SSD takes by default.
IMAGENET_MEAN, IMAGENET_STD = (255 * 0.485, 255 * 0.456, 255 * 0.406), (255 * 0.229, 255 * 0.224, 255 * 0.225)

Reference = Any  # a model of torchvision, which has no types

Pair = tuple[SSD, Reference]


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
) -> Reference:
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


def highres_vgg() -> Reference:
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
    extras = (
        *(ExtraBlock(256, 512, **halving), ExtraBlock(128, 256, **halving), ExtraBlock(128, 256)),
        *(ExtraBlock(128, 256), ExtraBlock(128, 256, kernel=4)),
    )
    config = replace(SSD512_VGG16, default_boxes=replace(SSD512_VGG16.default_boxes, steps=None))
    ours = Architecture(config, partial(VGGFeatures, extras), ssd_head).make(classes)
    return ours, generic(highres_vgg(), config, classes)


def resnet18_body() -> IntermediateLayerGetter:
    """Three feature maps by name."""
    return IntermediateLayerGetter(resnet18(weights=None), {"layer2": "0", "layer3": "1", "layer4": "2"})


class ResNet18Maps(Backbone):
    """A backbone of our kind: a list of feature maps."""

    channels = (128, 256, 512)

    def __init__(self) -> None:
        super().__init__()
        self.body = resnet18_body()

    def forward(self, x: Tensor) -> list[Tensor]:
        return list(self.body(x).values())


class TorchvisionResNet18Maps(nn.Module):
    """The same of torchvision's kind: maps by name."""

    def __init__(self) -> None:
        super().__init__()
        self.out_channels = [*ResNet18Maps.channels]
        self.body = resnet18_body()

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        maps: OrderedDict[str, Tensor] = self.body(x)
        return maps


def resnet18_pair(head: str, default_boxes: DefaultBoxConfig, classes: int, **options: float) -> Pair:
    """Another backbone, images that are not square, either head."""
    config = SSDConfig(
        arch="resnet18",
        size_hw=(96, 128),
        default_boxes=default_boxes,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
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
def randomise(model: Reference) -> None:
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
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean += 0.1 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
        norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.8, 1.2)
    features = list(model.eval().backbone(images).values())
    for head, spread in ((model.head.classification_head, 1.5), (model.head.regression_head, 1.0)):
        for level, feature in zip(head.module_list, features, strict=True):
            last = level[-1] if isinstance(level, nn.Sequential) else level
            last.weight *= spread / level(feature).std()


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


def anchors_of(model: SSD) -> Tensor:
    """Default boxes in pixels, [anchors, 4]."""
    height, width = model.config.size_hw
    return model.default_boxes_xyxy * torch.tensor([width, height, width, height])


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
