"""MobileNetV1 as pytorch-ssd uses it: `mb1-ssd` and `mb1-ssd-lite` of jetson-inference's `train_ssd.py`.

From qfgaohao/pytorch-ssd and its descendant dusty-nv/pytorch-ssd: vision/nn/mobilenet.py and, in vision/ssd,
mobilenetv1_ssd.py,
mobilenetv1_ssd_lite.py and config/mobilenetv1_ssd_config.py. The network itself is table 1 of arXiv:1704.04861.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from ssd_edge.box_coding import BoxCoding
from ssd_edge.models.architecture import Architecture, register_architecture
from ssd_edge.models.backbone import Backbone
from ssd_edge.models.default_box_presets import MOBILENET300
from ssd_edge.models.head import separable_conv, separable_head, ssd_head
from ssd_edge.models.init import xavier_init
from ssd_edge.models.ssd import SSDConfig

# (channels, stride) of the depthwise separable blocks
BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
TAPS = (11, 13)  # the layers whose results are feature maps; the first convolution is layer 0
EXTRAS = ((256, 512), (128, 256), (128, 256), (128, 256))  # (middle, out) channels of the blocks behind


class MobileNetV1Features(Backbone):
    """Six feature maps for 300×300 images: 19, 10, 5, 3, 2 and 1 cells wide.

    Parameter names are those of the original's `base_net` and `extras`.

    Args:
        separable_extras: depthwise separable convolutions in the extra blocks, as in `mb1-ssd-lite`.
    """

    def __init__(self, separable_extras: bool = False) -> None:
        super().__init__()
        self.channels = (512, 1024, *(out for _, out in EXTRAS))
        self.features = nn.Sequential(Conv2dNormActivation(3, 32, stride=2))
        channels = 32
        for out, stride in BLOCKS:
            self.features.append(_separable_block(channels, out, stride))
            channels = out
        extra_block = separable_extra_block if separable_extras else _extra_block
        self.extra = nn.ModuleList()
        for middle, out in EXTRAS:
            self.extra.append(extra_block(channels, middle, out))
            channels = out
        xavier_init(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = []
        for position, layer in enumerate(self.features):
            x = layer(x)
            if position in TAPS:
                outputs.append(x)
        for block in self.extra:
            x = block(x)
            outputs.append(x)
        return outputs

    def stages(self) -> list[list[nn.Module]]:
        """Five, one for each resolution."""
        starts = (0, *(position for position, (_, stride) in enumerate(BLOCKS, 1) if stride == 2))
        return [list(self.features[start:end]) for start, end in zip(starts, (*starts[1:], None), strict=True)]


def _separable_block(channels: int, out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        *Conv2dNormActivation(channels, channels, stride=stride, groups=channels),
        *Conv2dNormActivation(channels, out, kernel_size=1),
    )


def _extra_block(channels: int, middle: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, middle, kernel_size=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(middle, out, kernel_size=3, stride=2, padding=1),
        nn.ReLU(inplace=True),
    )


def separable_extra_block(channels: int, middle: int, out: int, padding: int = 1) -> nn.Sequential:
    """Halve the resolution as the lite variants do; behind the last convolution is no activation."""
    return nn.Sequential(
        nn.Conv2d(channels, middle, kernel_size=1),
        nn.ReLU(inplace=True),
        separable_conv(middle, out, stride=2, padding=padding),
    )


SSD300_MOBILENET_V1 = SSDConfig(
    arch="ssd300_mobilenet_v1",
    size_hw=(300, 300),
    default_boxes=MOBILENET300,
    mean=(127.0, 127.0, 127.0),
    std=(128.0, 128.0, 128.0),
    score_threshold=0.01,
    nms_iou=0.45,
    candidates=200,
    detections=200,
    box_coding=BoxCoding(max_log_scale=None),
    clip_before_nms=False,
)

register_architecture(Architecture(SSD300_MOBILENET_V1, MobileNetV1Features, ssd_head))
register_architecture(
    Architecture(
        replace(SSD300_MOBILENET_V1, arch="ssdlite300_mobilenet_v1"),
        partial(MobileNetV1Features, separable_extras=True),
        separable_head,
    )
)
