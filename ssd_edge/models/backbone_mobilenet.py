"""MobileNetV3-Large as SSDLite uses it; section 6.3 of the MobileNetV3 paper (arXiv:1905.02244)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models import MobileNet_V3_Large_Weights, mobilenet_v3_large
from torchvision.models.detection import SSDLite320_MobileNet_V3_Large_Weights
from torchvision.ops import Conv2dNormActivation

from ssd_edge.models.architecture import Architecture, PublishedWeights, register_architecture
from ssd_edge.models.backbone import Backbone
from ssd_edge.models.default_box_presets import SSDLITE320
from ssd_edge.models.head import ssdlite_head
from ssd_edge.models.init import normal_init
from ssd_edge.models.ssd import SSDConfig

COCO_V1 = SSDLite320_MobileNet_V3_Large_Weights.COCO_V1
# As in torchvision's SSDLite: smoother statistics than BatchNorm2d's defaults.
batch_norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Positions of the blocks with stride 2 in torchvision's mobilenet_v3_large().features, and of its last layer
C1, C2, C3, C4, LAST = 2, 4, 7, 13, 16


class MobileNetV3Features(Backbone):
    """Six feature maps for 320×320 images: 20, 10, 5, 3, 2 and 1 cells wide.

    Parameter names are those of torchvision's `SSDLiteFeatureExtractorMobileNet`.

    Args:
        reduced_tail: half the channels from C4 on, as the paper does for detection (table 6).
    """

    def __init__(self, reduced_tail: bool = True) -> None:
        super().__init__()
        last = 480 if reduced_tail else 960
        self.channels = (672, last, 512, 256, 256, 128)
        blocks = mobilenet_v3_large(weights=None, reduced_tail=reduced_tail, norm_layer=batch_norm).features
        c4 = blocks[C4].block
        self.features = nn.Sequential(
            nn.Sequential(*blocks[:C4], c4[0]),  # until the expansion layer of C4
            nn.Sequential(c4[1:], *blocks[C4 + 1 :]),  # from C4's depthwise layer to the end
        )
        self.extra = nn.ModuleList(
            [_extra_block(last, 512), _extra_block(512, 256), _extra_block(256, 256), _extra_block(256, 128)]
        )
        normal_init(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = []
        for block in (*self.features, *self.extra):
            x = block(x)
            outputs.append(x)
        return outputs

    def stages(self) -> list[list[nn.Module]]:
        """Six: C0 to C4 and the last layer, as torchvision's `_mobilenet_extractor` cuts them."""
        first, second = (list(half.children()) for half in self.features)
        layers = [*first[:C4], nn.ModuleList((first[C4], second[0])), *second[1:]]  # C4 is cut in two
        starts = (0, C1, C2, C3, C4, LAST)
        return [layers[start:end] for start, end in zip(starts, (*starts[1:], LAST + 1), strict=True)]


def _extra_block(channels: int, out: int) -> nn.Sequential:
    """Halve the resolution: pointwise, depthwise with stride 2, pointwise."""
    layer = partial(Conv2dNormActivation, norm_layer=batch_norm, activation_layer=nn.ReLU6)
    middle = out // 2
    return nn.Sequential(
        layer(channels, middle, kernel_size=1),
        layer(middle, middle, kernel_size=3, stride=2, groups=middle),
        layer(middle, out, kernel_size=1),
    )


def mobilenet_name(name: str) -> str | None:
    """A name of torchvision's `mobilenet_v3_large` to that of the detector; None for the classifier."""
    module, position, *rest = name.split(".")
    if module != "features":
        return None
    place = f"features.0.{position}"
    if int(position) > C4:
        place = f"features.1.{int(position) - C4}"
    elif int(position) == C4:  # C4 is cut behind its expansion layer: block.0 | block.1, block.2, …
        _, layer, *rest = rest
        place = f"features.0.{C4}" if layer == "0" else f"features.1.0.{layer}"
    return ".".join(("backbone", place, *rest))


def fold_imagenet_scaling(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's `mobilenet_v3_large` for images from -1 to 1, instead of those of ImageNet's mean and std.

    With x the image from 0 to 1, the weights have seen (x - mean) / std = ours * 0.5 / std + (0.5 - mean) / std, where
    ours = (x - 0.5) / 0.5. The factor goes into the first convolution, and what the constant adds to its output off the
    running mean of the batch norm behind it. Exact but at the border, where both pad with zeros: ImageNet's mean, here
    middle grey.
    """
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    weight, running_mean = state["features.0.0.weight"], state["features.0.1.running_mean"]
    constant = (weight * ((0.5 - mean) / std)).sum((1, 2, 3))  # [channels out]
    return {
        **state,
        "features.0.0.weight": weight * (0.5 / std),
        "features.0.1.running_mean": running_mean - constant,
    }


SSDLITE320_MOBILENET_V3_LARGE = SSDConfig(
    arch="ssdlite320_mobilenet_v3_large",
    size_hw=(320, 320),
    default_boxes=SSDLITE320,
    # From -1 to 1, as torchvision's ssdlite.py has it, with ImageNet weights too, although those have seen ImageNet's
    # mean and std. There the first batch norm must take the difference up, which it cannot where it is frozen; here
    # `fold_imagenet_scaling` does.
    mean=(127.5, 127.5, 127.5),
    std=(127.5, 127.5, 127.5),
    score_threshold=0.001,
    nms_iou=0.55,
    candidates=300,
    detections=300,
)

IMAGENET = PublishedWeights(
    MobileNet_V3_Large_Weights.IMAGENET1K_V1.url, rename=mobilenet_name, convert=fold_imagenet_scaling
)
register_architecture(
    Architecture(
        SSDLITE320_MOBILENET_V3_LARGE,
        MobileNetV3Features,
        partial(ssdlite_head, norm=batch_norm),
        weights={
            "coco": PublishedWeights(
                COCO_V1.url,
                class_names=tuple(COCO_V1.meta["categories"][1:]),  # without the background
            ),
            "imagenet": IMAGENET,  # of the full network: the part of the tail that is reduced starts anew
        },
    )
)
# What torchvision builds where `weights_backbone` is given: all of the pretrained layers fit.
register_architecture(
    Architecture(
        replace(SSDLITE320_MOBILENET_V3_LARGE, arch="ssdlite320_mobilenet_v3_large_full_tail"),
        partial(MobileNetV3Features, reduced_tail=False),
        partial(ssdlite_head, norm=batch_norm),
        weights={"imagenet": IMAGENET},
    )
)
