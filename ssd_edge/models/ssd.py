"""`SSD`: backbone, head and default boxes put together. It gives raw tensors; `predict.Predictor` decodes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ssd_edge.card import ModelCard
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


class RawOutputs(NamedTuple):
    """`cls_logits` [batch, anchors, classes + 1], background first; `bbox_regression` [batch, anchors, 4]."""

    cls_logits: Tensor
    bbox_regression: Tensor


class SSD(nn.Module):
    """A single-shot detector (arXiv:1512.02325).

    Attributes:
        default_boxes_xyxy: [anchors, 4], fractions of the image.
        config: the architecture's fixed settings.
    """

    default_boxes_xyxy: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, head: nn.Module, config: SSDConfig):
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.config = config
        boxes = default_boxes_xyxy(config.default_boxes, _grid_sizes_hw(backbone, config.size_hw), config.size_hw)
        # Not persistent: they follow from the configuration, and torchvision's state dicts have none.
        self.register_buffer("default_boxes_xyxy", boxes, persistent=False)
        self.register_buffer("mean", torch.tensor(config.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> RawOutputs:
        """Raw outputs of a batch.

        Args:
            images: float32 [batch, 3, height, width], RGB in 0–255, already of the model's size.
        """
        features = self.backbone((images - self.mean) / self.std)
        return RawOutputs(*self.head(features))

    def make_card(self, class_names: tuple[str, ...], category_ids: tuple[int, ...]) -> ModelCard:
        """The card of this model for a dataset's classes."""
        c = self.config
        return ModelCard(
            arch=c.arch,
            height=c.size_hw[0],
            width=c.size_hw[1],
            class_names=class_names,
            category_ids=category_ids,
            mean=c.mean,
            std=c.std,
            score_threshold=c.score_threshold,
            nms_iou=c.nms_iou,
            candidates=c.candidates,
            detections=c.detections,
        )


@torch.no_grad()
def _grid_sizes_hw(backbone: nn.Module, size_hw: tuple[int, int]) -> list[tuple[int, int]]:
    """Rows and columns of the backbone's feature maps, read off one run on an empty image."""
    training = backbone.training
    features = backbone.eval()(torch.zeros(1, 3, *size_hw))
    backbone.train(training)
    return [(feature.shape[2], feature.shape[3]) for feature in features]
