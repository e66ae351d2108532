"""VGG-16 as SSD300 uses it: the feature extractor of the SSD paper, page 4, figure 2 and section 3."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import vgg16

# Positions of the pooling layers in torchvision's vgg16().features
POOL3, POOL4, POOL5 = 16, 23, 30
L2_NORM_SCALE = 20.0  # start of the learnt scale on conv4_3; section 3.1 and the prototxt's conv4_3_norm


class VGGFeatures(nn.Module):
    """Six feature maps for 300×300 images: 38, 19, 10, 5, 3 and 1 cells wide.

    Parameter names are those of torchvision's `SSDFeatureExtractorVGG`.
    """

    channels = (512, 1024, 512, 256, 256, 256)

    def __init__(self) -> None:
        super().__init__()
        layers = vgg16(weights=None).features
        layers[POOL3].ceil_mode = True  # 75 -> 38 cells, as Caffe's pooling rounds
        self.scale_weight = nn.Parameter(torch.full((512,), L2_NORM_SCALE))
        self.features = nn.Sequential(*layers[:POOL4])  # until conv4_3
        fc = nn.Sequential(
            nn.MaxPool2d(kernel_size=3, stride=1, padding=1),  # pool5 keeps the resolution
            nn.Conv2d(512, 1024, kernel_size=3, padding=6, dilation=6),  # fc6, atrous
            nn.ReLU(inplace=True),
            nn.Conv2d(1024, 1024, kernel_size=1),  # fc7
            nn.ReLU(inplace=True),
        )
        self.extra = nn.ModuleList(
            [
                nn.Sequential(*layers[POOL4:POOL5], fc),
                _extra_block(1024, 256, 512, stride=2, padding=1),  # conv8_2
                _extra_block(512, 128, 256, stride=2, padding=1),  # conv9_2
                _extra_block(256, 128, 256),  # conv10_2
                _extra_block(256, 128, 256),  # conv11_2
            ]
        )
        for module in (fc, *self.extra[1:]):
            _xavier(module)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[batch, 3, height, width] normalised images to six [batch, channels, rows, columns]."""
        x = self.features(x)
        outputs = [self.scale_weight[:, None, None] * F.normalize(x)]
        for block in self.extra:
            x = block(x)
            outputs.append(x)
        return outputs


def _extra_block(channels: int, middle: int, out: int, *, stride: int = 1, padding: int = 0) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, middle, kernel_size=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(middle, out, kernel_size=3, stride=stride, padding=padding),
        nn.ReLU(inplace=True),
    )


def _xavier(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
