"""MobileNetV3-Large as SSDLite uses it; section 6.3 of the MobileNetV3 paper (arXiv:1905.02244)."""

from __future__ import annotations

from functools import partial

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

# As in torchvision's SSDLite: smoother statistics than BatchNorm2d's defaults.
batch_norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
# Positions of the blocks with stride 2 in torchvision's mobilenet_v3_large().features, and of its last layer
C1, C2, C3, C4, LAST = 2, 4, 7, 13, 16


class MobileNetV3Features(Backbone):
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


SSDLITE320_MOBILENET_V3_LARGE = SSDConfig(
    arch="ssdlite320_mobilenet_v3_large",
    size_hw=(320, 320),
    default_boxes=SSDLITE320,
    # From -1 to 1, as torchvision's ssdlite.py has it, with ImageNet weights too: those have seen ImageNet's mean and
    # std, but the first layer's batch norm takes the difference up.
    mean=(127.5, 127.5, 127.5),
    std=(127.5, 127.5, 127.5),
    score_threshold=0.001,
    nms_iou=0.55,
    candidates=300,
    detections=300,
)

register_architecture(
    Architecture(
        SSDLITE320_MOBILENET_V3_LARGE,
        MobileNetV3Features,
        partial(ssdlite_head, norm=batch_norm),
        weights={
            "coco": PublishedWeights(SSDLite320_MobileNet_V3_Large_Weights.COCO_V1.url),
            # Of the full network: what fits the reduced tail is loaded, the rest of the tail starts anew.
            "imagenet": PublishedWeights(MobileNet_V3_Large_Weights.IMAGENET1K_V1.url, rename=mobilenet_name),
        },
    )
)
