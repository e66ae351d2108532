"""How weights start that no file brings."""

from __future__ import annotations

from torch import nn


def xavier_init(module: nn.Module) -> None:
    """Convolutions by Xavier, zero biases: the SSD paper, section 3, for all layers that VGG-16 does not have."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def normal_init(module: nn.Module) -> None:
    """Convolutions from N(0, 0.03), zero biases: torchvision's start for SSDLite without a pretrained backbone."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, mean=0.0, std=0.03)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def kaiming_init(module: nn.Module) -> None:
    """Convolutions by Kaiming for ReLU, zero biases: torchvision's start for VGG-16."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
