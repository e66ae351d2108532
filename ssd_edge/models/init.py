"""How weights start that no file brings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn


def xavier_init(module: nn.Module) -> None:
    """Convolutions by Xavier, zero biases: the SSD paper, section 3, for all layers that VGG-16 does not have."""
    _init_convolutions(module, nn.init.xavier_uniform_)


def normal_init(module: nn.Module) -> None:
    """Convolutions from N(0, 0.03), zero biases: torchvision's start for SSDLite without a pretrained backbone."""
    _init_convolutions(module, partial(nn.init.normal_, mean=0.0, std=0.03))


def kaiming_init(module: nn.Module) -> None:
    """Convolutions by Kaiming for ReLU, zero biases: torchvision's start for VGG-16."""
    _init_convolutions(module, partial(nn.init.kaiming_normal_, mode="fan_out", nonlinearity="relu"))


def _init_convolutions(module: nn.Module, init_weight: Callable[[Tensor], Tensor]) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            init_weight(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
