"""MobileNetV2 as pytorch-ssd uses it: `mb2-ssd-lite` of jetson-inference's `train_ssd.py`.

From qfgaohao/pytorch-ssd: vision/nn/mobilenet_v2.py and vision/ssd/mobilenet_v2_ssd_lite.py. The network itself is
table 2 of arXiv:1801.04381.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from ssd_edge.models.architecture import Architecture, register_architecture
from ssd_edge.models.backbone import Backbone
from ssd_edge.models.backbone_mobilenet_v1 import SSD300_MOBILENET_V1
from ssd_edge.models.head import separable_head, separable_norm_conv
from ssd_edge.models.init import xavier_init

# (expansion, channels, repeats, stride of the first one) of the inverted residual blocks
BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
LAST_CHANNELS = 1280
C1, C2, C3, C4, LAST = 2, 4, 7, 14, 18  # positions of the blocks with stride 2, and of the last layer
EXPANSION = 3  # layers of a block that widen: convolution, batch norm, ReLU6
EXTRAS = ((512, 0.2), (256, 0.25), (256, 0.5), (64, 0.25))  # (channels, expansion) of the blocks behind
# Factors of the channels with which the original's first head fits: int(96 · width) · 6 = round(576 · width). Above 1
# its extra blocks do not fit.
WIDTHS = (1.0, 0.75, 0.5, 0.25)

_layer = partial(Conv2dNormActivation, activation_layer=nn.ReLU6)


class InvertedResidual(nn.Module):
    """Widen, depthwise, narrow; the input is added where its shape allows."""

    def __init__(self, channels: int, out: int, stride: int, expansion: float) -> None:
        super().__init__()
        middle = round(channels * expansion)
        self.is_residual = stride == 1 and channels == out
        self.conv = nn.Sequential(
            *(_layer(channels, middle, kernel_size=1) if expansion != 1 else ()),
            *_layer(middle, middle, stride=stride, groups=middle),
            *Conv2dNormActivation(middle, out, kernel_size=1, activation_layer=None),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.is_residual else self.conv(x)


class MobileNetV2Features(Backbone):
    """Six feature maps for 300×300 images: 19, 10, 5, 3, 2 and 1 cells wide. The first is the expansion layer of C4.

    Parameter names are those of the original's `base_net` and `extras`.

    Args:
        width: factor of the channels of all layers but the last and the extra ones.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        channels = int(32 * width)
        self.features = nn.Sequential(_layer(3, channels, stride=2))
        for expansion, out, repeats, stride in BLOCKS:
            for k in range(repeats):
                if len(self.features) == C4:
                    expanded = channels * expansion
                self.features.append(InvertedResidual(channels, int(out * width), stride if k == 0 else 1, expansion))
                channels = int(out * width)
        self.features.append(_layer(channels, LAST_CHANNELS, kernel_size=1))
        self.channels = (expanded, LAST_CHANNELS, *(out for out, _ in EXTRAS))
        self.extra = nn.ModuleList(
            InvertedResidual(c, out, 2, expansion)
            for c, (out, expansion) in zip(self.channels[1:], EXTRAS, strict=False)
        )
        xavier_init(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.features[:C4](x)
        c4 = self.features[C4].get_submodule("conv")
        assert isinstance(c4, nn.Sequential)
        outputs = [c4[:EXPANSION](x)]
        outputs.append(self.features[C4 + 1 :](c4[EXPANSION:](outputs[0])))
        for block in self.extra:
            outputs.append(block(outputs[-1]))
        return outputs

    def stages(self) -> list[list[nn.Module]]:
        """Six: C0 to C4 and the last layer."""
        starts = (0, C1, C2, C3, C4, LAST)
        return [list(self.features[start:end]) for start, end in zip(starts, (*starts[1:], None), strict=True)]


def arch_of_width(width: float) -> str:
    """The architecture's name at one of `WIDTHS`, such as `ssdlite300_mobilenet_v2_050`."""
    return "ssdlite300_mobilenet_v2" + ("" if width == 1 else f"_{100 * width:03.0f}")


for _width in WIDTHS:
    register_architecture(
        Architecture(
            replace(SSD300_MOBILENET_V1, arch=arch_of_width(_width)),
            partial(MobileNetV2Features, _width),
            partial(separable_head, conv=separable_norm_conv),
        )
    )
