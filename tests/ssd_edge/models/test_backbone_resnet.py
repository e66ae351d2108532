"""ResNet-50 as NVIDIA's SSD300 uses it."""

from __future__ import annotations

from typing import Any

from torch import nn

from ssd_edge.models.create import create_model


def test_extra_layers_of_resnet() -> None:
    """NVIDIA's `_build_additional_features`: in, middle and out of each block; 3×3 behind 1×1, no bias, batch norm."""
    shapes = [
        (1024, 256, 512, 2, 1),
        (512, 256, 512, 2, 1),
        (512, 128, 256, 2, 1),
        (256, 128, 256, 1, 0),
        (256, 128, 256, 1, 0),
    ]
    extra = create_model("ssd300_resnet50", 2).backbone.get_submodule("extra").children()
    for block, (channels, middle, out, stride, padding) in zip(extra, shapes, strict=True):
        layers: list[Any] = list(block.children())
        first, norm1, _, second, norm2, _ = layers
        assert [type(layer) for layer in layers] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 2
        assert (first.weight.shape, first.stride, first.padding) == ((middle, channels, 1, 1), (1, 1), (0, 0))
        assert (second.weight.shape, second.stride) == ((out, middle, 3, 3), (stride, stride))
        assert second.padding == (padding, padding)
        assert (first.bias, second.bias) == (None, None)
        assert (norm1.num_features, norm2.num_features) == (middle, out)
