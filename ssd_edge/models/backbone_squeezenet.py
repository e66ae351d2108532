"""SqueezeNet 1.1 as pytorch-ssd uses it: `sq-ssd-lite` of jetson-inference's `train_ssd.py`.

From qfgaohao/pytorch-ssd: vision/nn/squeezenet.py, vision/ssd/squeezenet_ssd_lite.py and
config/squeezenet_ssd_config.py. The network itself is arXiv:1602.07360.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn
from torchvision.models import squeezenet1_1

from ssd_edge.models.architecture import Architecture, register_architecture
from ssd_edge.models.backbone import Backbone
from ssd_edge.models.backbone_mobilenet_v1 import SSD300_MOBILENET_V1, separable_extra_block
from ssd_edge.models.default_box_presets import MOBILENET300
from ssd_edge.models.default_boxes import sizes_wh
from ssd_edge.models.head import separable_head
from ssd_edge.models.init import xavier_init

TAP = 11  # the layer of torchvision's squeezenet1_1().features whose result is the first feature map
# (middle, out, padding) of the blocks behind; the wide padding makes 10 cells of 17
EXTRAS = ((256, 512, 2), (256, 512, 1), (128, 256, 1), (128, 256, 1), (128, 256, 1))


class SqueezeNetFeatures(Backbone):
    """Six feature maps for 300×300 images: 17, 10, 5, 3, 2 and 1 cells wide.

    Parameter names are those of the original's `base_net` and `extras`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = squeezenet1_1(weights=None).features
        self._pools = [k for k, layer in enumerate(self.features) if isinstance(layer, nn.MaxPool2d)]
        for position in self._pools:
            self.features[position].ceil_mode = False  # torchvision rounds up, which would give 18 cells
        self.channels = (512, *(out for _, out, _ in EXTRAS))
        self.extra = nn.ModuleList(
            separable_extra_block(c, middle, out, padding)
            for c, (middle, out, padding) in zip(self.channels, EXTRAS, strict=False)
        )
        xavier_init(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = []
        for position, layer in enumerate(self.features):
            x = layer(x)
            if position == TAP:
                outputs.append(x)
        for block in self.extra:
            x = block(x)
            outputs.append(x)
        return outputs

    def stages(self) -> list[list[nn.Module]]:
        """Four, between the pooling layers."""
        starts = (0, *self._pools)
        return [list(self.features[start:end]) for start, end in zip(starts, (*starts[1:], None), strict=True)]


# The original takes the boxes of MobileNet, whose first map has 19 cells; 17 steps of 16 pixels end at pixel 272. As
# shapes, because steps that leave a part of the image without boxes are refused elsewhere.
SQUEEZENET300 = replace(
    MOBILENET300,
    aspect_ratios=(),
    scales=(),
    shapes=tuple(
        tuple((width, height) for width, height in sizes_wh(MOBILENET300, level).tolist())
        for level in range(MOBILENET300.levels)
    ),
)

register_architecture(
    Architecture(
        replace(SSD300_MOBILENET_V1, arch="ssdlite300_squeezenet", default_boxes=SQUEEZENET300),
        SqueezeNetFeatures,
        separable_head,
    )
)
