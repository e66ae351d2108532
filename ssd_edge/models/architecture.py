"""The architectures by name. A file registers its own here, and `create_model` and training know it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from torch import Tensor, nn

from ssd_edge.errors import UsageError
from ssd_edge.models.backbone import Backbone
from ssd_edge.models.default_boxes import DefaultBoxConfig
from ssd_edge.models.ssd import SSD, SSDConfig, feature_channels

# (channels of each level, default boxes a cell of each level, class columns with background) -> the head
MakeHead = Callable[[Sequence[int], Sequence[int], int], nn.Module]


@dataclass(frozen=True)
class PublishedWeights:
    """Weights that someone published.

    Attributes:
        url: a state dict. Where its name ends in `-` and the first digits of its SHA-256, eight or more, as all of
            PyTorch's do, the file is checked against them.
        rename: a name in the file to the name in our model, None for what the model has no use for. Where there is no
            `rename`, the file holds the whole detector under our names.
        class_names: of a whole detector: what its class columns behind the background detect, in their order. A name
            may repeat: COCO's `N/A` stands for the ids that name nothing.
        convert: changes the file's state dict, under the file's names, before it is loaded: where the weights were
            trained with another scaling of the images, say.
    """

    url: str
    rename: Callable[[str], str | None] | None = None
    class_names: tuple[str, ...] | None = None
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None

    @property
    def file_name(self) -> str:
        """Such as `resnet50-0676ba61.pth`."""
        return PurePosixPath(urlsplit(self.url).path).name

    @property
    def sha256_prefix(self) -> str | None:
        """Such as `0676ba61`; None where the name has none."""
        found = re.search(r"-([0-9a-f]{8,})\.", self.file_name)
        return found and found[1]


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
            UsageError: the default boxes do not fit the feature maps, or the backbone does not give those that it
                declares.
        """
        backbone = self.backbone()
        boxes = default_boxes or self.config.default_boxes
        channels = feature_channels(backbone, replace(self.config, default_boxes=boxes))
        head = self.head(channels, boxes.boxes_per_cell, num_classes + 1)
        return SSD(backbone, head, self.config, default_boxes)


ARCHITECTURES: dict[str, Architecture] = {}
_REGISTERED_BY: dict[str, str] = {}  # architecture to the module that registered it


def register_architecture(architecture: Architecture) -> Architecture:
    """Make an architecture known by its name.

    The module that registered it may do so again, as when a cell of a notebook is run again: the last one holds.

    Raises:
        UsageError: another module has taken the name: checkpoints carry it, and it must mean one thing.
    """
    name = architecture.config.arch
    module = sys._getframe(1).f_globals.get("__name__", "__main__")  # the caller's, as collections.namedtuple finds it
    if name in ARCHITECTURES and (owner := _REGISTERED_BY.get(name)) != module:
        raise UsageError(f"architecture {name!r} is registered already, by {owner}; choose another name")
    ARCHITECTURES[name] = architecture
    _REGISTERED_BY[name] = module
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
