"""`create_model`: the architectures by name, and their published weights."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn
from torchvision.models.detection import SSD300_VGG16_Weights, SSDLite320_MobileNet_V3_Large_Weights

from ssd_edge.card import file_sha256
from ssd_edge.errors import ModelFileError, UsageError
from ssd_edge.models.backbone_mobilenet import MobileNetV3Features, batch_norm, normal_init
from ssd_edge.models.backbone_vgg import VGGFeatures
from ssd_edge.models.default_boxes import DefaultBoxConfig, linear_scales
from ssd_edge.models.head import SSDHead, ssd_predict, ssdlite_predict
from ssd_edge.models.ssd import SSD, SSDConfig

log = logging.getLogger(__name__)

COCO = "coco"  # the word for torchvision's published weights
COCO_CLASSES = 90  # category ids 1–90 of COCO; ten of them name nothing, as in torchvision's models

SSD300_VGG16 = SSDConfig(
    arch="ssd300_vgg16",
    size_hw=(300, 300),
    # Scales for COCO (section 3.4 of the paper) and steps of the original prototxt, as torchvision has them.
    default_boxes=DefaultBoxConfig(
        aspect_ratios=((2,), (2, 3), (2, 3), (2, 3), (2,), (2,)),
        scales=(0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05),
        steps=(8, 16, 32, 64, 100, 300),
    ),
    mean=(0.48235 * 255, 0.45882 * 255, 0.40784 * 255),  # Caffe's VGG: 123, 117, 104, no scaling
    std=(1.0, 1.0, 1.0),
    score_threshold=0.01,
    nms_iou=0.45,
    candidates=400,
    detections=200,
)

SSDLITE320_MOBILENET_V3_LARGE = SSDConfig(
    arch="ssdlite320_mobilenet_v3_large",
    size_hw=(320, 320),
    default_boxes=DefaultBoxConfig(aspect_ratios=((2, 3),) * 6, scales=linear_scales(0.2, 0.95, levels=6)),
    mean=(127.5, 127.5, 127.5),
    std=(127.5, 127.5, 127.5),
    score_threshold=0.001,
    nms_iou=0.55,
    candidates=300,
    detections=300,
)


def _ssd300_vgg16(num_classes: int) -> SSD:
    config = SSD300_VGG16
    backbone = VGGFeatures()
    head = SSDHead(list(backbone.channels), config.default_boxes.boxes_per_cell, num_classes + 1, predict=ssd_predict)
    return SSD(backbone, head, config)


def _ssdlite320_mobilenet_v3_large(num_classes: int) -> SSD:
    config = SSDLITE320_MOBILENET_V3_LARGE
    backbone = MobileNetV3Features()
    predict = partial(ssdlite_predict, norm=batch_norm)
    head = SSDHead(list(backbone.channels), config.default_boxes.boxes_per_cell, num_classes + 1, predict=predict)
    normal_init(head)
    return SSD(backbone, head, config)


ARCHITECTURES: dict[str, Callable[[int], SSD]] = {
    "ssd300_vgg16": _ssd300_vgg16,
    "ssdlite320_mobilenet_v3_large": _ssdlite320_mobilenet_v3_large,
}

COCO_WEIGHTS = {
    "ssd300_vgg16": SSD300_VGG16_Weights.COCO_V1,
    "ssdlite320_mobilenet_v3_large": SSDLite320_MobileNet_V3_Large_Weights.COCO_V1,
}


def create_model(arch: str, num_classes: int, *, weights: str | None = None) -> SSD:
    """Make a detector.

    Args:
        arch: `ssd300_vgg16` or `ssdlite320_mobilenet_v3_large`.
        num_classes: real classes; the background is the model's business.
        weights: None for random weights, or `coco` for torchvision's published COCO weights, which need a network
            the first time. With another class count than COCO's 90 the class heads start anew.

    Raises:
        UsageError: unknown architecture or weights, or no class.
        ModelFileError: the weights cannot be fetched, or the file in their place is another one; the message names
            the file and where to put it.
    """
    if arch not in ARCHITECTURES:
        raise UsageError(f"unknown architecture {arch!r}; there are {', '.join(sorted(ARCHITECTURES))}")
    if num_classes < 1:
        raise UsageError(f"num_classes is {num_classes}; a detector needs at least 1 class")
    if weights not in (None, COCO):
        raise UsageError(f"unknown weights {weights!r}; there is 'coco', or none for random weights")
    model = ARCHITECTURES[arch](num_classes)
    if weights == COCO:
        load_fitting(model, _fetch_coco_weights(arch))
    return model


def _fetch_coco_weights(arch: str) -> dict[str, Tensor]:
    published = COCO_WEIGHTS[arch]
    place = Path(torch.hub.get_dir()) / "checkpoints" / published.url.rsplit("/", 1)[1]
    sha256_prefix = place.stem.rpartition("-")[2]  # torch checks it of what it downloads, not of a file put there
    if place.is_file() and not file_sha256(place).startswith(sha256_prefix):
        raise ModelFileError(
            f"{place} is cut off or another file: its SHA-256 does not begin with {sha256_prefix}; "
            f"remove it, and download {published.url} again"
        )
    try:
        state: dict[str, Tensor] = published.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except (OSError, RuntimeError, UnpicklingError) as error:  # OSError: also urllib's
        raise ModelFileError(
            f"torchvision's COCO weights for {arch} could not be fetched or read ({error}); "
            f"on a machine with a network download {published.url} and put it at {place}"
        ) from error
    return state


def load_fitting(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Load a state dict of the same architecture; layers of another shape (class heads) start anew, with a warning.

    Raises:
        ModelFileError: it is of another architecture.
    """
    own = model.state_dict()
    if own.keys() != state.keys():
        strangers = sorted(own.keys() ^ state.keys())
        raise ModelFileError(
            f"the weights are of another architecture: {len(strangers)} names differ, such as {strangers[0]}"
        )
    anew = [name for name, value in state.items() if own[name].shape != value.shape]
    if anew:
        log.warning("the weights are of a model with other classes: %s start anew", ", ".join(anew))
    model.load_state_dict({**state, **{name: own[name] for name in anew}})
