"""Default boxes (anchors): where they are depends on the grid of each feature map alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class DefaultBoxConfig:
    """How default boxes tile an image; page 6 of the SSD paper (arXiv:1512.02325).

    Attributes:
        aspect_ratios: the ratios other than 1 of each level; each is used twice, lying and standing.
        scales: side of the square box of each level as a fraction of the image, and one more for the last
            level's larger square.
        steps: pixels between neighbouring boxes of each level, or None: image size / grid size.
        clip: limit width and height (not the corners) to the image, as torchvision does.

    Raises:
        ValueError: lengths do not fit together.
    """

    aspect_ratios: tuple[tuple[float, ...], ...]
    scales: tuple[float, ...]
    steps: tuple[float, ...] | None = None
    clip: bool = True

    def __post_init__(self) -> None:
        levels = len(self.aspect_ratios)
        if len(self.scales) != levels + 1:
            raise ValueError(f"{levels} levels need {levels + 1} scales, got {len(self.scales)}")
        if self.steps is not None and len(self.steps) != levels:
            raise ValueError(f"{levels} levels need {levels} steps, got {len(self.steps)}")

    @property
    def boxes_per_cell(self) -> tuple[int, ...]:
        """Default boxes at each position of each level: two squares and two for each aspect ratio."""
        return tuple(2 + 2 * len(ratios) for ratios in self.aspect_ratios)


def linear_scales(smallest: float, largest: float, levels: int) -> tuple[float, ...]:
    """Evenly spaced scales for `levels` feature maps, and 1.0 for the last level's larger square.

    As torchvision spaces them (`DefaultBoxGenerator`); the paper's equation 4.
    """
    span = largest - smallest
    return (*(smallest + span * k / (levels - 1) for k in range(levels)), 1.0)


def default_boxes_xyxy(
    config: DefaultBoxConfig, grid_sizes_hw: list[tuple[int, int]], size_hw: tuple[int, int]
) -> Tensor:
    """All default boxes, level by level, row by row, then by shape.

    Args:
        grid_sizes_hw: rows and columns of each feature map.
        size_hw: the model's input size in pixels, needed for `config.steps`.

    Returns:
        float32 [anchors, 4], x0 y0 x1 y1 as fractions of the image; they may reach beyond it.
    """
    levels = []
    for k, (rows, columns) in enumerate(grid_sizes_hw):
        y_count, x_count = (rows, columns)
        if config.steps is not None:
            y_count, x_count = size_hw[0] / config.steps[k], size_hw[1] / config.steps[k]  # type: ignore[assignment]
        centre_y = (torch.arange(rows) + 0.5) / y_count
        centre_x = (torch.arange(columns) + 0.5) / x_count
        grid_y, grid_x = torch.meshgrid(centre_y, centre_x, indexing="ij")
        centres = torch.stack((grid_x, grid_y), dim=-1)  # [rows, columns, 2]
        sizes = torch.tensor(_sizes_wh(config, k))  # [shapes, 2]
        if config.clip:
            sizes = sizes.clamp(0, 1)
        centres = centres[:, :, None].expand(-1, -1, len(sizes), -1).reshape(-1, 2)
        half = 0.5 * sizes.repeat(rows * columns, 1)
        levels.append(torch.cat((centres - half, centres + half), dim=1))
    return torch.cat(levels)  # [anchors, 4]


def _sizes_wh(config: DefaultBoxConfig, level: int) -> list[list[float]]:
    """Widths and heights at one level: the square, the square between this scale and the next, the ratios."""
    scale = config.scales[level]
    between = math.sqrt(scale * config.scales[level + 1])
    sizes = [[scale, scale], [between, between]]
    for ratio in config.aspect_ratios[level]:
        long, short = scale * math.sqrt(ratio), scale / math.sqrt(ratio)
        sizes += [[long, short], [short, long]]
    return sizes
