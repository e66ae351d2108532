"""`SSD`: backbone, head and default boxes put together. It gives raw tensors; `predict.Predictor` decodes them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ssd_edge.box_coding import BoxCoding
from ssd_edge.card import SOFTMAX, ModelCard
from ssd_edge.errors import UsageError
from ssd_edge.models.backbone import Backbone
from ssd_edge.models.default_boxes import DefaultBoxConfig, default_boxes_xyxy


@dataclass(frozen=True)
class SSDConfig:
    """What an architecture fixes besides its layers; the fields mean what they mean in `ModelCard`."""

    arch: str
    size_hw: tuple[int, int]
    default_boxes: DefaultBoxConfig
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    score_threshold: float
    nms_iou: float
    candidates: int
    detections: int
    box_coding: BoxCoding = field(default_factory=BoxCoding)
    score_function: str = SOFTMAX
    clip_before_nms: bool = True
    iou_epsilon: float = 0.0
    network: dict[str, Any] | None = None


class RawOutputs(NamedTuple):
    """`cls_logits` [batch, anchors, classes + 1], background first; `bbox_regression` [batch, anchors, 4]."""

    cls_logits: Tensor
    bbox_regression: Tensor


class SSD(nn.Module):
    """A single-shot detector (arXiv:1512.02325).

    Args:
        backbone: gives the feature maps.
        head: makes logits and offsets of them.
        config: the architecture's settings.
        default_boxes: used instead of the architecture's own; None for those.

    Attributes:
        default_boxes_xyxy: [anchors, 4], fractions of the image.
        config: the model's settings: the architecture's, with the default boxes that the model has.
        grid_sizes_hw: rows and columns of each feature map.

    Raises:
        UsageError: the backbone's feature maps are not what it declares, or not one for each level of default boxes,
            or these have steps that do not fit the maps.
    """

    default_boxes_xyxy: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self, backbone: Backbone, head: nn.Module, config: SSDConfig, default_boxes: DefaultBoxConfig | None = None
    ):
        super().__init__()
        self.backbone = backbone
        self.head = head
        self._own_default_boxes = config.default_boxes
        self._frozen: tuple[nn.Module, ...] = ()
        self.config = config = replace(config, default_boxes=default_boxes or config.default_boxes)
        self.grid_sizes_hw = _grid_sizes_hw(backbone, config)
        _check_steps(config, self.grid_sizes_hw)
        boxes = default_boxes_xyxy(config.default_boxes, self.grid_sizes_hw, config.size_hw)
        # Not persistent: they follow from the configuration, and torchvision's state dicts have none.
        self.register_buffer("default_boxes_xyxy", boxes, persistent=False)
        self.register_buffer("mean", torch.tensor(config.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> RawOutputs:
        """Raw outputs of a batch.

        Args:
            images: float32 [batch, 3, height, width], RGB in 0–255, already of the model's size.
        """
        images = images - self.mean
        if self.config.std != (1.0, 1.0, 1.0):  # Caffe's VGG divides by nothing: no node in an exported graph
            images = images / self.std
        features = self.backbone(images)
        return RawOutputs(*self.head(features))

    def freeze(self, modules: Iterable[nn.Module]) -> None:
        """Train these modules no more: neither their parameters nor, in evaluation mode for good, their statistics.

        It replaces what was frozen before; `freeze.freeze_backbone` chooses the modules.
        """
        for frozen, trainable in ((self._frozen, True), (tuple(modules), False)):
            for module in frozen:
                module.requires_grad_(trainable)
            self._frozen = frozen
        self.train(self.training)

    def train(self, mode: bool = True) -> SSD:
        """Training mode, for all that is not frozen."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def make_card(self, class_names: tuple[str, ...], category_ids: tuple[int, ...]) -> ModelCard:
        """The card of this model for a dataset's classes."""
        # A described network has no default boxes that are registered.
        own_boxes = self._own_default_boxes if self.config.network is None else None
        return card_of(self.config, class_names, category_ids, own_boxes)


def card_of(
    config: SSDConfig,
    class_names: tuple[str, ...],
    category_ids: tuple[int, ...],
    own_boxes: DefaultBoxConfig | None = None,
) -> ModelCard:
    """The card of a model with these settings.

    Args:
        own_boxes: default boxes that the architecture's name stands for, so that the card need not hold them.

    Raises:
        ModelFileError: values do not fit together.
    """
    boxes, coding = config.default_boxes, config.box_coding
    return ModelCard(
        arch=config.arch,
        height=config.size_hw[0],
        width=config.size_hw[1],
        class_names=class_names,
        category_ids=category_ids,
        mean=config.mean,
        std=config.std,
        score_threshold=config.score_threshold,
        nms_iou=config.nms_iou,
        candidates=config.candidates,
        detections=config.detections,
        default_boxes=None if boxes == own_boxes else boxes.to_dict(),
        box_coding=None if coding == BoxCoding() else coding.to_dict(),
        score_function=config.score_function,
        clip_before_nms=config.clip_before_nms,
        iou_epsilon=config.iou_epsilon,
        network=config.network,
    )


def feature_channels(backbone: Backbone, config: SSDConfig) -> tuple[int, ...]:
    """The channels that a backbone declares, one for each level of default boxes.

    Raises:
        UsageError: it declares none, or for another number of levels.
    """
    channels = getattr(backbone, "channels", None)
    if not isinstance(channels, (tuple, list)):
        found = "no `channels`" if channels is None else f"`channels` as {channels!r}"
        raise UsageError(
            f"the backbone of {config.arch}, {type(backbone).__name__}, declares {found}; it must declare those of "
            "each feature map, such as `channels = (512, 256)`"
        )
    if len(channels) != config.default_boxes.levels:
        raise UsageError(
            f"default boxes for {config.default_boxes.levels} levels, but {config.arch} has {len(channels)} feature "
            "maps; aspect_ratios needs one entry for each"
        )
    return tuple(channels)


def _grid_sizes_hw(backbone: Backbone, config: SSDConfig) -> list[tuple[int, int]]:
    """Rows and columns of the backbone's feature maps, all of which are checked against what it declares."""
    declared = feature_channels(backbone, config)
    features = _run_without_numbers(backbone, config)
    if not isinstance(features, (list, tuple)):
        raise UsageError(
            f"the backbone of {config.arch} gives one {type(features).__name__}, expected a list of feature maps; "
            "let its forward return a list, finest map first"
        )
    if wrong := [feature for feature in features if not (isinstance(feature, Tensor) and feature.ndim == 4)]:
        found = list(wrong[0].shape) if isinstance(wrong[0], Tensor) else type(wrong[0]).__name__
        raise UsageError(
            f"the backbone of {config.arch} gives {found} among its feature maps, expected tensors [batch, channels, "
            "rows, columns]; correct its forward"
        )
    channels = tuple(feature.shape[1] for feature in features)
    if channels != declared:
        raise UsageError(
            f"the backbone of {config.arch} declares feature maps of {declared} channels, "
            f"but gives {channels}; correct its `channels`"
        )
    return [(feature.shape[2], feature.shape[3]) for feature in features]


@torch.no_grad()
def _run_without_numbers(backbone: Backbone, config: SSDConfig) -> Any:
    """What the backbone makes of an image, on the meta device: whatever its `forward` returns."""
    state = {**dict(backbone.named_parameters()), **dict(backbone.named_buffers())}
    shapes = {name: torch.empty_like(value, device="meta") for name, value in state.items()}
    modes = {module: module.training for module in backbone.modules()}
    try:
        return functional_call(backbone.eval(), shapes, torch.empty(1, 3, *config.size_hw, device="meta"))
    except RuntimeError as error:
        height, width = config.size_hw
        raise UsageError(
            f"the backbone of {config.arch} does not run on images of {width}×{height} pixels ({error}); choose a "
            "larger size_hw, or correct its forward"
        ) from error
    finally:
        for module, training in modes.items():
            module.training = training


def _check_steps(config: SSDConfig, grid_sizes_hw: list[tuple[int, int]]) -> None:
    """Default boxes whose steps are those of other feature maps would leave a part of the image without any.

    Those of another project are taken as they are: squeezenet's at qfgaohao/pytorch-ssd do leave one.
    """
    if config.default_boxes.shapes is not None:
        return
    for level, (step, grid_hw) in enumerate(zip(config.default_boxes.steps or (), grid_sizes_hw, strict=False)):
        for name, cells, size in zip(("rows", "columns"), grid_hw, config.size_hw, strict=True):
            if abs(step * cells - size) >= step:
                raise UsageError(
                    f"default boxes of level {level}: {cells} {name}, {step} pixels apart, span {step * cells:g} of "
                    f"the image's {size} pixels; for {config.arch} the step must be near {size / cells:g}, or steps "
                    "None, which makes them fit"
                )
