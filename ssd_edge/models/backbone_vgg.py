"""VGG-16 as SSD300 and SSD512 use it: the feature extractor of the SSD paper, page 4, figure 2 and section 3."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models import VGG16_Weights
from torchvision.models.detection import SSD300_VGG16_Weights
from torchvision.models.vgg import cfgs, make_layers

from ssd_edge.box_coding import BoxCoding
from ssd_edge.models.architecture import Architecture, PublishedWeights, register_architecture
from ssd_edge.models.backbone import Backbone
from ssd_edge.models.default_box_presets import SSD300_COCO, SSD300_VOC, SSD512_COCO
from ssd_edge.models.head import ssd_head
from ssd_edge.models.init import kaiming_init, xavier_init
from ssd_edge.models.ssd import SSDConfig

POOL4 = 23  # its position in torchvision's vgg16().features; conv4_3 ends before it
L2_NORM_SCALE = 20.0  # start of the learnt scale on conv4_3; section 3.1 and the prototxt's conv4_3_norm


@dataclass(frozen=True)
class L2Norm:
    """What conv4_3 is divided by: max(|x|, eps) as in torchvision's `F.normalize`, or |x| + eps with `added`."""

    eps: float = 1e-12
    added: bool = False

    def divisor(self, x: Tensor) -> Tensor:
        """[batch, channels, rows, columns] -> [batch, 1, rows, columns]."""
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        return length + self.eps if self.added else length.clamp_min(self.eps)


TORCHVISION_NORM = L2Norm()
AMDEGROOT_NORM = L2Norm(eps=1e-10, added=True)  # amdegroot/ssd.pytorch, layers/modules/l2norm.py, lines 18-21


class ExtraBlock(NamedTuple):
    """A block behind VGG's own layers: a 1×1 convolution to `middle` channels, then one to `out` channels."""

    middle: int
    out: int
    kernel: int = 3
    stride: int = 1
    padding: int = 0


SSD300_EXTRAS = (
    ExtraBlock(256, 512, stride=2, padding=1),  # conv8_2, 19 -> 10 cells
    ExtraBlock(128, 256, stride=2, padding=1),  # conv9_2, -> 5
    ExtraBlock(128, 256),  # conv10_2, -> 3
    ExtraBlock(128, 256),  # conv11_2, -> 1
)
# Footnote of section 3.1, and the original SSD512's deploy.prototxt, which counts from conv6_2 to conv10_2. Torchvision
# (`SSDFeatureExtractorVGG(highres=True)`) has the same parameters, but leaves conv10_2 and conv11_2 as in SSD300 and
# the last one without padding; its maps are 64, 32, 16, 8, 6, 4 and 1 cells wide, so that the paper's steps do not fit.
SSD512_EXTRAS = (
    ExtraBlock(256, 512, stride=2, padding=1),  # conv8_2, 32 -> 16 cells
    ExtraBlock(128, 256, stride=2, padding=1),  # conv9_2, -> 8
    ExtraBlock(128, 256, stride=2, padding=1),  # conv10_2, -> 4
    ExtraBlock(128, 256, stride=2, padding=1),  # conv11_2, -> 2
    ExtraBlock(128, 256, kernel=4, padding=1),  # conv12_2, -> 1
)


class VGGFeatures(Backbone):
    """conv4_3, fc7 and one feature map of each extra block.

    With `SSD300_EXTRAS` 300×300 images give 38, 19, 10, 5, 3 and 1 cells, with `SSD512_EXTRAS` 512×512 images 64, 32,
    16, 8, 4, 2 and 1. Parameter names are those of torchvision's `SSDFeatureExtractorVGG`.

    Args:
        l2_norm: of conv4_3; None puts a batch norm in its place, as qfgaohao/pytorch-ssd does (vision/ssd/vgg_ssd.py).
        batch_norm: use the layers of torchvision's `vgg16_bn` up to conv5_3.
    """

    def __init__(
        self,
        extras: Sequence[ExtraBlock] = SSD300_EXTRAS,
        l2_norm: L2Norm | None = TORCHVISION_NORM,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        layers = make_layers(cfgs["D"], batch_norm)  # those of torchvision's vgg16
        kaiming_init(layers)
        pool1, pool2, pool3, pool4, pool5 = (k for k, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d))
        layers[pool3].ceil_mode = True  # 75 -> 38 cells, as Caffe's pooling rounds
        self._stage_ends = (pool1, pool2, pool3, pool4, pool5)
        self._l2_norm = l2_norm
        self.channels = (512, 1024, *(block.out for block in extras))
        if l2_norm:
            self.scale_weight = nn.Parameter(torch.full((512,), L2_NORM_SCALE))
        else:
            self.norm = nn.BatchNorm2d(512)
        self.features = nn.Sequential(*layers[:pool4])  # until conv4_3
        fc = nn.Sequential(
            nn.MaxPool2d(kernel_size=3, stride=1, padding=1),  # pool5 keeps the resolution
            nn.Conv2d(512, 1024, kernel_size=3, padding=6, dilation=6),  # fc6, atrous
            nn.ReLU(inplace=True),
            nn.Conv2d(1024, 1024, kernel_size=1),  # fc7
            nn.ReLU(inplace=True),
        )
        conv5_fc7 = nn.Sequential(*layers[pool4:pool5], fc)
        self.extra = nn.ModuleList([conv5_fc7])
        for channels, block in zip(self.channels[1:], extras, strict=False):
            self.extra.append(_extra_block(channels, block))
        for module in (fc, *self.extra[1:]):
            xavier_init(module)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.features(x)
        outputs = [self._normalised(x)]
        for block in self.extra:
            x = block(x)
            outputs.append(x)
        return outputs

    def _normalised(self, x: Tensor) -> Tensor:
        if self._l2_norm is None:
            return self.norm(x)
        # Not F.normalize, whose `expand` would be a separate node in an exported graph
        return self.scale_weight[:, None, None] * (x / self._l2_norm.divisor(x))

    def stages(self) -> list[list[nn.Module]]:
        """Five, between the pooling layers, as torchvision's `_vgg_extractor` cuts them; fc6 and fc7 are in none."""
        layers = [*self.features, *self.extra[0].children()]
        ends = self._stage_ends
        return [layers[start:end] for start, end in zip((0, *ends[:-1]), ends, strict=True)]


def _extra_block(channels: int, block: ExtraBlock) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, block.middle, kernel_size=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(block.middle, block.out, block.kernel, stride=block.stride, padding=block.padding),
        nn.ReLU(inplace=True),
    )


def vgg_name(name: str) -> str | None:
    """A name of torchvision's `vgg16` to that of the detector; None for the classifier."""
    module, position, *rest = name.split(".")
    if module != "features":
        return None
    place = f"features.{position}" if int(position) < POOL4 else f"extra.0.{int(position) - POOL4}"
    return ".".join(("backbone", place, *rest))


COCO = PublishedWeights(
    SSD300_VGG16_Weights.COCO_V1.url, class_names=tuple(SSD300_VGG16_Weights.COCO_V1.meta["categories"][1:])
)
# The original VGG-16 of the paper, in whose scaling the networks below see images; torchvision's own
# IMAGENET1K_V1 would need another mean and std. torchvision's ssd300_vgg16 starts from the same file.
IMAGENET = PublishedWeights(VGG16_Weights.IMAGENET1K_FEATURES.url, rename=vgg_name)

SSD300_VGG16 = SSDConfig(
    arch="ssd300_vgg16",
    size_hw=(300, 300),
    default_boxes=SSD300_COCO,
    mean=(0.48235 * 255, 0.45882 * 255, 0.40784 * 255),  # Caffe's VGG: 123, 117, 104, no scaling
    std=(1.0, 1.0, 1.0),
    score_threshold=0.01,
    nms_iou=0.45,
    candidates=400,
    detections=200,
)
SSD512_VGG16 = replace(SSD300_VGG16, arch="ssd512_vgg16", size_hw=(512, 512), default_boxes=SSD512_COCO)

register_architecture(
    Architecture(
        SSD300_VGG16,
        VGGFeatures,
        ssd_head,
        weights={"coco": COCO, "imagenet": IMAGENET},
    )
)
register_architecture(
    Architecture(SSD512_VGG16, partial(VGGFeatures, SSD512_EXTRAS), ssd_head, weights={"imagenet": IMAGENET})
)
# The VGG of amdegroot/ssd.pytorch and of PyPI's pytorch-ssd; the latter's VGG300BN and VGG512BN have batch norms. They
# come in through `ssd-edge import`, whose card has their default boxes and numbers.
for _base, _extras in ((SSD300_VGG16, SSD300_EXTRAS), (SSD512_VGG16, SSD512_EXTRAS)):
    register_architecture(
        Architecture(
            replace(_base, arch=f"{_base.arch}_amdegroot"), partial(VGGFeatures, _extras, AMDEGROOT_NORM), ssd_head
        )
    )
    register_architecture(
        Architecture(
            replace(_base, arch=f"{_base.arch}_bn"),
            partial(VGGFeatures, _extras, AMDEGROOT_NORM, batch_norm=True),
            ssd_head,
        )
    )
# qfgaohao/pytorch-ssd's vision/ssd/vgg_ssd.py with its config/vgg_ssd_config.py; `vgg16-ssd` of jetson-inference.
register_architecture(
    Architecture(
        replace(
            SSD300_VGG16,
            arch="ssd300_vgg16_batchnorm",
            default_boxes=replace(SSD300_VOC, clip="centres"),
            mean=(123.0, 117.0, 104.0),
            candidates=200,
            box_coding=BoxCoding(max_log_scale=None),
            clip_before_nms=False,
        ),
        partial(VGGFeatures, l2_norm=None),
        ssd_head,
        weights={"imagenet": IMAGENET},
    )
)
