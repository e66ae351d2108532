"""`Backbone`: what gives an SSD its feature maps. docs/backbones.md shows how to write one."""

from __future__ import annotations

from torch import Tensor, nn


class Backbone(nn.Module):
    """Base of all backbones.

    A backbone declares `channels`, those of each feature map, and its `forward` gives as many maps, finest first; the
    head and the default boxes size themselves by them. Their grids are read off a run on PyTorch's meta device, which
    computes shapes without numbers: a `forward` that makes tensors makes them like `x` (`x.new_zeros`).
    """

    channels: tuple[int, ...]

    def forward(self, x: Tensor) -> list[Tensor]:
        """[batch, 3, height, width] normalised images to one [batch, channels, rows, columns] a level."""
        raise NotImplementedError(f"{type(self).__name__} has no forward(images) -> list of feature maps")

    def stages(self) -> list[list[nn.Module]]:
        """The pretrained layers, cut into the stages that `freeze_backbone` freezes one after the other.

        From the image on. None by default: such a backbone cannot be frozen.
        """
        return []
