"""The architectures by name. A file registers its own here, and `create_model` and training know it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from ssd_edge.errors import UsageError
from ssd_edge.models.backbone import Backbone
from ssd_edge.models.default_boxes import DefaultBoxConfig
from ssd_edge.models.ssd import SSD, SSDConfig

# (channels of each level, default boxes a cell of each level, class columns with background) -> the head
MakeHead = Callable[[Sequence[int], Sequence[int], int], nn.Module]


@dataclass(frozen=True)
class PublishedWeights:
    """Weights that someone published.

    Attributes:
        url: a state dict; its name ends in `-` and the first digits of its SHA-256, as all of PyTorch's do.
        rename: a name in the file to the name in our model, None for what the model has no use for. Where there is no
            `rename`, the file holds the whole detector under our names.
    """

    url: str
    rename: Callable[[str], str | None] | None = None

    @property
    def file_name(self) -> str:
        """Such as `resnet50-0676ba61.pth`."""
        return self.url.rsplit("/", 1)[1]


@dataclass(frozen=True)
class Architecture:
    """How to make a detector.

    Attributes:
        config: its settings; `config.arch` is the name.
        backbone: makes the backbone, with random weights.
        head: makes the head, such as `head.ssd_head` or `head.ssdlite_head`.
        weights: published weights by the word that `create_model(weights=...)` takes, such as `coco` or `imagenet`.
    """

    config: SSDConfig
    backbone: Callable[[], Backbone]
    head: MakeHead
    weights: Mapping[str, PublishedWeights] = field(default_factory=dict)

    def make(self, num_classes: int, default_boxes: DefaultBoxConfig | None = None) -> SSD:
        """A model with random weights.

        Raises:
            UsageError: the default boxes have another number of levels than the backbone, or the backbone does not
                give the feature maps that it declares.
        """
        backbone = self.backbone()
        boxes = default_boxes or self.config.default_boxes
        if boxes.levels != len(backbone.channels):
            raise UsageError(
                f"default boxes for {boxes.levels} levels, but {self.config.arch} has {len(backbone.channels)} feature "
                "maps; aspect_ratios needs one entry for each"
            )
        head = self.head(backbone.channels, boxes.boxes_per_cell, num_classes + 1)
        return SSD(backbone, head, self.config, default_boxes)


ARCHITECTURES: dict[str, Architecture] = {}


def register_architecture(architecture: Architecture) -> Architecture:
    """Make an architecture known by its name.

    Raises:
        UsageError: the name is taken: checkpoints carry it, and it must mean one thing.
    """
    name = architecture.config.arch
    if name in ARCHITECTURES:
        raise UsageError(f"architecture {name!r} is registered already; choose another name")
    ARCHITECTURES[name] = architecture
    return architecture


def find_architecture(name: str) -> Architecture:
    """The architecture of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in ARCHITECTURES:
        raise UsageError(
            f"unknown architecture {name!r}; there are {', '.join(sorted(ARCHITECTURES))}. "
            "One of your own is known once the file that registers it is imported"
        )
    return ARCHITECTURES[name]
