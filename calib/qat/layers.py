"""A PyTorch network's convolutions, and what is behind them: residual additions, hardswish, the end of a head."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import nn
from torchvision.models.mobilenetv3 import InvertedResidual
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import Conv2dNormActivation, SqueezeExcitation

from ssd_edge.models.head import SSDHead


@dataclass(frozen=True)
class _Addend:
    """A path through a residual block.

    Attributes:
        conv: its last convolution.
        end: the module whose output is added, batch norm included.
    """

    conv: nn.Conv2d
    end: nn.Module


@dataclass(frozen=True)
class ResidualBlock:
    """What is added in a block.

    Attributes:
        first: the convolution that reads the block's input.
        branch: the long path.
        shortcut: the other one; None where the block's input itself is added.
    """

    module: nn.Module
    first: nn.Conv2d
    branch: _Addend
    shortcut: _Addend | None


def residual_block(module: nn.Module) -> ResidualBlock | None:
    """The parts of a residual block; None for a module that is none."""
    if isinstance(module, InvertedResidual) and module.use_res_connect:
        convolutions = convolutions_of(module)
        return ResidualBlock(module, convolutions[0], _Addend(convolutions[-1], module.block), None)
    if isinstance(module, Bottleneck):
        branch = _Addend(module.conv3, module.bn3)
    elif isinstance(module, BasicBlock):
        branch = _Addend(module.conv2, module.bn2)
    else:
        return None
    shortcut = module.downsample
    passed = None if shortcut is None else _Addend(convolutions_of(shortcut)[-1], shortcut)
    return ResidualBlock(module, module.conv1, branch, passed)


def hardswishes_of(modules: Iterable[nn.Module]) -> dict[nn.Module, nn.Module]:
    """The hardswish behind each convolution that has one."""
    return {
        layer[0]: layer[-1]
        for layer in modules
        if isinstance(layer, Conv2dNormActivation) and isinstance(layer[-1], nn.Hardswish)
    }


def last_convolutions(modules: Iterable[nn.Module]) -> Iterator[nn.Conv2d]:
    """Those behind which there is neither a norm nor an activation, but for gates."""
    for module in modules:
        if isinstance(module, SqueezeExcitation):
            yield module.fc2
        elif isinstance(module, SSDHead):
            for head in (module.classification_head, module.regression_head):
                yield from (convolutions_of(predict)[-1] for predict in head.module_list)


def convolutions_of(module: nn.Module) -> list[nn.Conv2d]:
    """All of a module, in the order in which it names them."""
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
