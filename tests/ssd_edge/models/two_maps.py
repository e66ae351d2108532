"""A small architecture of two feature maps."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from ssd_edge.models.architecture import Architecture
from ssd_edge.models.backbone import Backbone
from ssd_edge.models.backbone_vgg import SSD300_VGG16
from ssd_edge.models.default_boxes import DefaultBoxConfig
from ssd_edge.models.head import ssd_head


class TwoMaps(Backbone):
    """Small, and wrong about its channels where `claimed` says so."""

    def __init__(self, claimed: tuple[int, ...] = (4, 8)) -> None:
        super().__init__()
        self.channels = claimed
        self.fine = nn.Conv2d(3, 4, 3, stride=4)
        self.coarse = nn.Conv2d(4, 8, 3, stride=4)

    def forward(self, x: Tensor) -> list[Tensor]:
        fine = self.fine(x)
        return [fine, self.coarse(fine)]


TWO_MAPS = Architecture(
    replace(
        SSD300_VGG16,
        arch="two_maps",
        size_hw=(32, 48),
        default_boxes=DefaultBoxConfig(((2,), ()), (0.2, 0.5, 0.9)),
    ),
    TwoMaps,
    ssd_head,
)
