"""Prediction heads: one small convolution for classes and one for offsets on every feature map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from ssd_edge.models.init import normal_init, xavier_init

# (channels in, channels out) -> the module that predicts at one level
Predict = Callable[[int, int], nn.Module]


def ssd_head(channels: Sequence[int], boxes_per_cell: Sequence[int], logits: int) -> SSDHead:
    """The paper's head; see `SSDHead`. Xavier weights, zero biases."""
    return SSDHead(channels, boxes_per_cell, logits, predict=ssd_predict)


def ssdlite_head(
    channels: Sequence[int],
    boxes_per_cell: Sequence[int],
    logits: int,
    norm: Callable[..., nn.Module] = nn.BatchNorm2d,
) -> SSDHead:
    """The light head of SSDlite; see `SSDHead`. Weights from N(0, 0.03), zero biases."""
    head = SSDHead(channels, boxes_per_cell, logits, predict=partial(ssdlite_predict, norm=norm))
    normal_init(head)
    return head


def ssd_predict(channels: int, outputs: int) -> nn.Module:
    """A 3×3 convolution; section 2.1 of the SSD paper. Xavier weights, zero biases."""
    conv = nn.Conv2d(channels, outputs, kernel_size=3, padding=1)
    xavier_init(conv)
    return conv


def ssdlite_predict(channels: int, outputs: int, norm: Callable[..., nn.Module]) -> nn.Module:
    """Depthwise 3×3, then pointwise; section 6.2 of the MobileNetV2 paper (arXiv:1801.04381)."""
    return nn.Sequential(
        Conv2dNormActivation(
            channels, channels, kernel_size=3, groups=channels, norm_layer=norm, activation_layer=nn.ReLU6
        ),
        nn.Conv2d(channels, outputs, kernel_size=1),
    )


def separable_conv(channels: int, outputs: int, stride: int = 1, padding: int = 1) -> nn.Module:
    """Depthwise 3×3 with biases, ReLU, pointwise: `SeperableConv2d` of mobilenetv1_ssd_lite.py there."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, kernel_size=3, stride=stride, padding=padding, groups=channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, outputs, kernel_size=1),
    )


def separable_norm_conv(channels: int, outputs: int) -> nn.Module:
    """The same with a batch norm and ReLU6: `SeperableConv2d` of mobilenet_v2_ssd_lite.py there."""
    return nn.Sequential(
        *Conv2dNormActivation(channels, channels, groups=channels, activation_layer=nn.ReLU6, bias=True),
        nn.Conv2d(channels, outputs, kernel_size=1),
    )


def separable_head(
    channels: Sequence[int], boxes_per_cell: Sequence[int], logits: int, conv: Predict = separable_conv
) -> SSDHead:
    """The light head of qfgaohao/pytorch-ssd: a plain 1×1 convolution on the last map. Xavier weights, zero biases.

    Args:
        channels, boxes_per_cell, logits: as `SSDHead` takes them.
        conv: what predicts on the other maps: `separable_conv` or `separable_norm_conv`.
    """
    levels = [conv] * (len(channels) - 1)
    head = SSDHead(channels, boxes_per_cell, logits, predict=[*levels, partial(nn.Conv2d, kernel_size=1)])
    xavier_init(head)
    return head


class _LevelPredictions(nn.Module):
    """One prediction module a level; their outputs laid out anchor by anchor."""

    def __init__(
        self, channels: Sequence[int], boxes_per_cell: Sequence[int], columns: int, predict: Sequence[Predict]
    ):
        super().__init__()
        self.columns = columns
        self.module_list = nn.ModuleList(
            make(c, boxes * columns) for make, c, boxes in zip(predict, channels, boxes_per_cell, strict=True)
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        levels = []
        for predict, feature in zip(self.module_list, features, strict=True):
            # With channels-last memory the permutation moves nothing.
            prediction = predict(feature).permute(0, 2, 3, 1)  # [batch, rows, columns, boxes * K]
            levels.append(prediction.reshape(prediction.shape[0], -1, self.columns))
        return torch.cat(levels, dim=1)  # [batch, anchors, K]


class SSDHead(nn.Module):
    """Class logits and box offsets of all default boxes.

    Args:
        channels: channels of each feature map.
        boxes_per_cell: default boxes at each position of each feature map.
        logits: class columns, background included.
        predict: makes the module of one level; or one for each level.
        predict_boxes: the same for the offsets of each level; None where `predict` makes both.
    """

    def __init__(
        self,
        channels: Sequence[int],
        boxes_per_cell: Sequence[int],
        logits: int,
        predict: Predict | Sequence[Predict],
        predict_boxes: Sequence[Predict] | None = None,
    ):
        super().__init__()
        if callable(predict):
            predict = [predict] * len(channels)
        self.classification_head = _LevelPredictions(channels, boxes_per_cell, logits, predict)
        self.regression_head = _LevelPredictions(channels, boxes_per_cell, 4, predict_boxes or predict)

    def forward(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Returns (class logits [batch, anchors, logits], offsets [batch, anchors, 4])."""
        return self.classification_head(features), self.regression_head(features)
