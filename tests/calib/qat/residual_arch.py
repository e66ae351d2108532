"""A tiny detector with residual blocks; importing this file registers it."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.mobilenetv3 import InvertedResidual, InvertedResidualConfig
from torchvision.models.resnet import Bottleneck

from ssd_edge.models.architecture import Architecture, register_architecture
from ssd_edge.models.backbone import Backbone
from ssd_edge.models.default_boxes import DefaultBoxConfig, linear_scales
from ssd_edge.models.head import ssd_head
from ssd_edge.models.ssd import SSDConfig

ARCH = "tiny_residual"


class ResidualFeatures(Backbone):
    """One feature map of a 64×64 image, 8 cells wide, behind a residual block of each kind."""

    channels = (16,)

    def __init__(self) -> None:
        super().__init__()
        mobile = InvertedResidualConfig(16, 3, 32, 16, True, "HS", 1, 1, 1.0)
        shortcut = nn.Sequential(nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16))
        self.layers = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 16, 9, stride=8, padding=4, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
            InvertedResidual(mobile, nn.BatchNorm2d),
            Bottleneck(16, 4, downsample=shortcut),
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.layers(x)]


def _register() -> None:
    config = SSDConfig(
        arch=ARCH,
        size_hw=(64, 64),
        default_boxes=DefaultBoxConfig(aspect_ratios=((2,),), scales=linear_scales(0.4, 0.6, levels=1)),
        mean=(127.5, 127.5, 127.5),
        std=(127.5, 127.5, 127.5),
        score_threshold=0.01,
        nms_iou=0.5,
        candidates=50,
        detections=20,
    )
    register_architecture(Architecture(config, backbone=ResidualFeatures, head=ssd_head))


_register()
