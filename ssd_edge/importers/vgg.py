"""What amdegroot/ssd.pytorch and its descendants share: VGG's layers in one list, settings, numbers of classes."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from ssd_edge.box_coding import BoxCoding
from ssd_edge.errors import ModelFileError
from ssd_edge.importers.family import classes_of
from ssd_edge.importers.state_dicts import StateDict
from ssd_edge.models.architecture import find_architecture
from ssd_edge.models.backbone_vgg import COCO
from ssd_edge.models.default_boxes import DefaultBoxConfig
from ssd_edge.models.ssd import SSDConfig

# The 80 of COCO without the gaps between its category ids
COCO_CLASSES = tuple(name for name in COCO.class_names or () if name != "N/A")
_HEADS = ("classification_head", "regression_head")


class VGGNames(NamedTuple):
    """What a project calls the parts of an SSD on VGG-16.

    Attributes:
        layers: the list of VGG's layers up to fc7.
        norm: the scale of the L2 norm.
        extras: the list of the convolutions behind them.
        heads: the lists of the class and box layers.
        pool4, pool5: positions in `layers`; other ones with batch norms.
    """

    layers: str
    norm: str
    extras: str
    heads: tuple[str, str]
    pool4: int = 23
    pool5: int = 30

    def theirs(self, name: str) -> str:
        """The project's name of a parameter of `VGGFeatures` or `SSDHead`."""
        part, module, *rest = name.split(".")
        if part == "head":
            return ".".join((self.heads[_HEADS.index(module)], *rest[1:]))
        if module == "scale_weight":
            return self.norm
        if module == "features":
            return ".".join((self.layers, *rest))
        block, position, *rest = rest
        if block != "0":  # two convolutions, each with a ReLU behind it
            return f"{self.extras}.{2 * (int(block) - 1) + int(position) // 2}.{rest[0]}"
        if len(rest) == 2:  # pool5, fc6, a ReLU, fc7
            return f"{self.layers}.{self.pool5 + int(rest[0])}.{rest[1]}"
        return f"{self.layers}.{self.pool4 + int(position)}.{rest[0]}"


def vgg_config(arch: str, default_boxes: DefaultBoxConfig) -> SSDConfig:
    """Settings of an architecture with default boxes that are limited to the image, centres too.

    Boxes are clipped after the suppression, and their offsets have no limit.
    """
    return replace(
        find_architecture(arch).config,
        default_boxes=replace(default_boxes, clip="centres"),
        box_coding=BoxCoding(max_log_scale=None),
        clip_before_nms=False,
    )


def head_classes(source: StateDict, cls_layer: str, box_layer: str) -> int:
    """Real classes by the weights of the first level's two layers.

    Raises:
        ModelFileError: one of them is missing, or they do not fit together.
    """
    shapes = [source.shape(name) for name in (cls_layer, box_layer)]
    if missing := [name for name, shape in zip((cls_layer, box_layer), shapes, strict=True) if not shape]:
        raise ModelFileError(f"{source.path}: not whole: {', '.join(missing)} is missing")
    count = classes_of(*(shape[0] for shape in shapes if shape))
    if count is None:
        raise ModelFileError(f"{source.path}: {cls_layer} and {box_layer}, {shapes}, do not fit together")
    return count
