"""`create_model`: the architectures by name, with random or published weights."""

from __future__ import annotations

import logging
from dataclasses import replace

from ssd_edge.box_coding import BoxCoding
from ssd_edge.card import ModelCard
from ssd_edge.errors import ModelFileError, UsageError

# The backbones register their architectures when they are imported.
from ssd_edge.models import (  # noqa: F401
    backbone_mobilenet,
    backbone_mobilenet_v1,
    backbone_mobilenet_v2,
    backbone_resnet,
    backbone_squeezenet,
    backbone_vgg,
    layer_graph,
)
from ssd_edge.models.architecture import Architecture, find_architecture
from ssd_edge.models.default_boxes import DefaultBoxConfig
from ssd_edge.models.ssd import SSD, SSDConfig
from ssd_edge.models.weights import load_published

logger = logging.getLogger(__name__)

COCO = "coco"  # the word for torchvision's published detectors
IMAGENET = "imagenet"  # the word for backbones trained to classify
COCO_CLASSES = 90  # category ids 1–90 of COCO; ten of them name nothing, as in torchvision's models


def create_model(
    arch: str, num_classes: int, *, weights: str | None = None, default_boxes: DefaultBoxConfig | None = None
) -> SSD:
    """Make a detector.

    Args:
        arch: `ssd300_vgg16`, `ssd512_vgg16`, `ssd300_resnet50`, `ssdlite320_mobilenet_v3_large`,
            `ssdlite320_mobilenet_v3_large_full_tail`, or one that was registered (docs/backbones.md).
        num_classes: real classes; the background is the model's business.
        weights: None for random weights; `coco` for torchvision's detectors trained on COCO (`ssd300_vgg16` and
            `ssdlite320_mobilenet_v3_large`); `imagenet` for a backbone trained on ImageNet. They need a network the
            first time. What does not fit starts anew, such as the class heads with another class count than COCO's 90;
            a log line says what.
        default_boxes: None for the architecture's own; else for as many levels as it has feature maps. The head sizes
            itself. `default_box_presets.PRESETS` has those that are known by name.

    Raises:
        UsageError: unknown architecture or weights, no class, or default boxes for another number of levels.
        ModelFileError: the weights cannot be fetched, or the file in their place is another one; the message names
            the file and where to put it.
    """
    architecture = find_architecture(arch)
    if num_classes < 1:
        raise UsageError(f"num_classes is {num_classes}; a detector needs at least 1 class")
    if weights is not None and weights not in architecture.weights:
        there_are = ", ".join(map(repr, sorted(architecture.weights))) or "none"
        raise UsageError(f"unknown weights {weights!r}; published for {arch}: {there_are}; or no weights to start anew")
    model = architecture.make(num_classes, default_boxes)
    if weights is not None:
        published = architecture.weights[weights]
        if published.rename is None and model.config.default_boxes != architecture.config.default_boxes:
            logger.warning(
                "weights %r of the whole detector with other default boxes: the heads were trained on the own default "
                "boxes of %s and must learn these anew",
                weights,
                arch,
            )
        load_published(model, published)
    return model


def create_from_card(
    card: ModelCard,
    *,
    num_classes: int | None = None,
    default_boxes: DefaultBoxConfig | None = None,
    source: str = "model card",
) -> SSD:
    """The detector that a card describes, with random weights; input size, normalisation and all else as it says.

    Args:
        num_classes: None for as many as the card names.
        default_boxes: None for the card's.
        source: names the card in messages.

    Raises:
        ModelFileError: an unknown architecture, a network that makes no detector, or default boxes that do not fit.
    """
    if default_boxes is None and card.default_boxes is not None:
        default_boxes = DefaultBoxConfig.from_dict(card.default_boxes, source=source)
    try:
        architecture = _architecture_of(card, default_boxes, source)
        return architecture.make(len(card.class_names) if num_classes is None else num_classes, default_boxes)
    except UsageError as error:  # here it is the file that is wrong, not what the user typed
        raise ModelFileError(f"{source}: {error}") from error


def _architecture_of(card: ModelCard, default_boxes: DefaultBoxConfig | None, source: str) -> Architecture:
    registered = None if card.network is not None else find_architecture(card.arch)
    own_boxes = registered.config.default_boxes if registered else default_boxes
    if own_boxes is None:
        raise ModelFileError(f"{source}: a network without default_boxes; import the model again")
    config = SSDConfig(
        arch=card.arch,
        size_hw=(card.height, card.width),
        default_boxes=own_boxes,
        mean=card.mean,
        std=card.std,
        score_threshold=card.score_threshold,
        nms_iou=card.nms_iou,
        candidates=card.candidates,
        detections=card.detections,
        box_coding=BoxCoding.from_dict(card.box_coding, source=source),
        score_function=card.score_function,
        clip_before_nms=card.clip_before_nms,
        iou_epsilon=card.iou_epsilon,
        network=card.network,
    )
    if registered:
        return replace(registered, config=config)
    return layer_graph.architecture_of(card.arch, card.network or {}, config)
