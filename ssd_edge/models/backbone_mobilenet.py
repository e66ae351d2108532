"""MobileNetV3-Large as SSDLite uses it; section 6.3 of the MobileNetV3 paper (arXiv:1905.02244)."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torchvision.models import mobilenet_v3_large
from torchvision.ops import Conv2dNormActivation

# As in torchvision's SSDLite: smoother statistics than BatchNorm2d's defaults.
batch_norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
C4 = 13  # the last block with stride 2 in torchvision's mobilenet_v3_large().features


class MobileNetV3Features(nn.Module):
    """Six feature maps for 320×320 images: 20, 10, 5, 3, 2 and 1 cells wide.

    The tail is reduced (half the channels from C4 on), as the paper does for detection. Parameter names are those
    of torchvision's `SSDLiteFeatureExtractorMobileNet`.
    """

    channels = (672, 480, 512, 256, 256, 128)

    def __init__(self) -> None:
        super().__init__()
        blocks = mobilenet_v3_large(weights=None, reduced_tail=True, norm_layer=batch_norm).features
        c4 = blocks[C4].block
        self.features = nn.Sequential(
            nn.Sequential(*blocks[:C4], c4[0]),  # until the expansion layer of C4
            nn.Sequential(c4[1:], *blocks[C4 + 1 :]),  # from C4's depthwise layer to the end
        )
        self.extra = nn.ModuleList(
            [_extra_block(480, 512), _extra_block(512, 256), _extra_block(256, 256), _extra_block(256, 128)]
        )
        normal_init(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[batch, 3, height, width] normalised images to six [batch, channels, rows, columns]."""
        outputs = []
        for block in (*self.features, *self.extra):
            x = block(x)
            outputs.append(x)
        return outputs


def _extra_block(channels: int, out: int) -> nn.Sequential:
    """Halve the resolution: pointwise, depthwise with stride 2, pointwise."""
    layer = partial(Conv2dNormActivation, norm_layer=batch_norm, activation_layer=nn.ReLU6)
    middle = out // 2
    return nn.Sequential(
        layer(channels, middle, kernel_size=1),
        layer(middle, middle, kernel_size=3, stride=2, groups=middle),
        layer(middle, out, kernel_size=1),
    )


def normal_init(module: nn.Module) -> None:
    """Convolutions from N(0, 0.03), zero biases: torchvision's start for SSDLite without a pretrained backbone."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, mean=0.0, std=0.03)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
