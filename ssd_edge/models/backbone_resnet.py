"""ResNet-50 as NVIDIA's SSD300 uses it: DeepLearningExamples, PyTorch/Detection/SSD/ssd/model.py."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torchvision.models import ResNet50_Weights, resnet50

from ssd_edge.models.architecture import Architecture, PublishedWeights, register_architecture
from ssd_edge.models.backbone import Backbone
from ssd_edge.models.default_box_presets import SSD300_COCO
from ssd_edge.models.head import ssd_head
from ssd_edge.models.init import xavier_init
from ssd_edge.models.ssd import SSDConfig

LAYERS = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3")  # those kept of torchvision's resnet50


class ResNet50Features(Backbone):
    """Six feature maps for 300×300 images: 38, 19, 10, 5, 3 and 1 cells wide.

    ResNet-50 until conv4_x, whose stride is 1 instead of 2 so that its map has 38 cells; conv5_x is left out. Then five
    blocks with batch norm, as many as SSD300 has behind conv4_3.
    """

    channels = (1024, 512, 512, 256, 256, 256)

    def __init__(self) -> None:
        super().__init__()
        resnet = resnet50(weights=None)
        self.features = nn.Sequential(OrderedDict((name, getattr(resnet, name)) for name in LAYERS))
        conv4_1 = resnet.layer3[0]
        for conv in (conv4_1.conv2, conv4_1.downsample[0]):
            conv.stride = (1, 1)
        self.extra = nn.ModuleList(
            [
                _extra_block(1024, 256, 512, stride=2, padding=1),
                _extra_block(512, 256, 512, stride=2, padding=1),
                _extra_block(512, 128, 256, stride=2, padding=1),
                _extra_block(256, 128, 256),
                _extra_block(256, 128, 256),
            ]
        )
        xavier_init(self.extra)

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = [x := self.features(x)]
        for block in self.extra:
            x = block(x)
            outputs.append(x)
        return outputs

    def stages(self) -> list[list[nn.Module]]:
        """Four: the stem, conv2_x, conv3_x and conv4_x."""
        conv1, bn1, _, _, *layers = self.features
        return [[conv1, bn1], *([layer] for layer in layers)]


def _extra_block(channels: int, middle: int, out: int, *, stride: int = 1, padding: int = 0) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, middle, kernel_size=1, bias=False),
        nn.BatchNorm2d(middle),
        nn.ReLU(inplace=True),
        nn.Conv2d(middle, out, kernel_size=3, stride=stride, padding=padding, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
    )


def resnet_name(name: str) -> str | None:
    """A name of torchvision's `resnet50` to that of the detector; None for conv5_x and the classifier."""
    return f"backbone.features.{name}" if name.split(".")[0] in LAYERS else None


SSD300_RESNET50 = SSDConfig(
    arch="ssd300_resnet50",
    size_hw=(300, 300),
    # Those of ssd/utils.py there, `dboxes300_coco`, but for one clamp: its `clamp_(0, 1)` limits the centres as well as
    # the sizes, which moves the third level's last row and column from 9.5 * 32 / 300 = 1.013 to 1.
    default_boxes=SSD300_COCO,
    mean=(0.485 * 255, 0.456 * 255, 0.406 * 255),  # ImageNet's, with which the weights below were trained
    std=(0.229 * 255, 0.224 * 255, 0.225 * 255),
    score_threshold=0.01,
    nms_iou=0.45,
    candidates=400,
    detections=200,
)

register_architecture(
    Architecture(
        SSD300_RESNET50,
        ResNet50Features,
        ssd_head,
        # V1, as in NVIDIA's model.py
        weights={"imagenet": PublishedWeights(ResNet50_Weights.IMAGENET1K_V1.url, rename=resnet_name)},
    )
)
