"""Default boxes (anchors): where they are depends on the grid of each feature map alone."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ssd_edge.errors import ModelFileError


@dataclass(frozen=True)
class DefaultBoxConfig:
    """How default boxes tile an image; page 6 of the SSD paper (arXiv:1512.02325).

    Attributes:
        aspect_ratios: the ratios other than 1 of each level; each is used twice, lying and standing.
        scales: side of the square box of each level as a fraction of the image, and one more for the last
            level's larger square. `linear_scales` makes evenly spaced ones.
        steps: pixels between neighbouring boxes of each level, or None: image size / grid size.
        clip: limit width and height (not the corners) to the image, as torchvision does.

    Raises:
        ValueError: no level, lengths that do not fit together, or numbers that are not positive and finite.
    """

    aspect_ratios: tuple[tuple[float, ...], ...]
    scales: tuple[float, ...]
    steps: tuple[float, ...] | None = None
    clip: bool = True

    def __post_init__(self) -> None:
        if self.levels == 0:
            raise ValueError("no aspect_ratios; expected those of one level at least")
        if len(self.scales) != self.levels + 1:
            raise ValueError(f"{self.levels} levels need {self.levels + 1} scales, got {len(self.scales)}")
        if self.steps is not None and len(self.steps) != self.levels:
            raise ValueError(f"{self.levels} levels need {self.levels} steps, got {len(self.steps)}")
        numbers = (*(ratio for level in self.aspect_ratios for ratio in level), *self.scales, *(self.steps or ()))
        if wrong := [number for number in numbers if not 0 < number < math.inf]:  # NaN too
            raise ValueError(f"{wrong[0]} among aspect_ratios, scales and steps; they must be positive and finite")

    @property
    def levels(self) -> int:
        """Feature maps that the default boxes are for."""
        return len(self.aspect_ratios)

    @property
    def boxes_per_cell(self) -> tuple[int, ...]:
        """Default boxes at each position of each level: two squares and two for each aspect ratio."""
        return tuple(2 + 2 * len(ratios) for ratios in self.aspect_ratios)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: what `ModelCard.default_boxes` holds."""
        values = asdict(self)
        values["aspect_ratios"] = [list(ratios) for ratios in self.aspect_ratios]
        values["scales"] = list(self.scales)
        values["steps"] = None if self.steps is None else list(self.steps)
        return values

    @classmethod
    def from_dict(cls, values: Any, *, source: str = "default boxes") -> DefaultBoxConfig:
        """The inverse of `to_dict`; `source` names the file in messages.

        Raises:
            ModelFileError: not an object with just these fields, or values that do not fit together.
        """
        try:
            steps = values["steps"]
            config = cls(
                aspect_ratios=tuple(tuple(map(_number, ratios)) for ratios in values["aspect_ratios"]),
                scales=tuple(map(_number, values["scales"])),
                steps=None if steps is None else tuple(map(_number, steps)),
                clip=values["clip"],
            )
            if not isinstance(config.clip, bool) or len(values) != 4:
                raise ValueError(f"clip is {config.clip!r}, the fields are {sorted(values)}")
        except (TypeError, KeyError, ValueError) as error:
            raise ModelFileError(
                f"{source}: not default boxes ({type(error).__name__}: {error}); expected an object with "
                "aspect_ratios (a list of numbers a level), scales (one more than levels), steps (one a level, or "
                "null) and clip (true or false)"
            ) from error
        return config


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is not a number")
    return value


def linear_scales(smallest: float, largest: float, levels: int) -> tuple[float, ...]:
    """Evenly spaced scales for `levels` feature maps, and 1.0 for the last level's larger square.

    As torchvision spaces them (`DefaultBoxGenerator`); the paper's equation 4. For a single level they are the two
    scales given, as there.
    """
    if levels == 1:
        return smallest, largest
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
        y_count, x_count = float(rows), float(columns)
        if config.steps is not None:
            y_count, x_count = size_hw[0] / config.steps[k], size_hw[1] / config.steps[k]
        centre_y = (torch.arange(rows) + 0.5) / y_count
        centre_x = (torch.arange(columns) + 0.5) / x_count
        grid_y, grid_x = torch.meshgrid(centre_y, centre_x, indexing="ij")
        centres = torch.stack((grid_x, grid_y), dim=-1)  # [rows, columns, 2]
        sizes = torch.tensor(sizes_wh(config, k))  # [shapes, 2]
        if config.clip:
            sizes = sizes.clamp(0, 1)
        centres = centres[:, :, None].expand(-1, -1, len(sizes), -1).reshape(-1, 2)
        half = 0.5 * sizes.repeat(rows * columns, 1)
        levels.append(torch.cat((centres - half, centres + half), dim=1))
    return torch.cat(levels)  # [anchors, 4]


def sizes_wh(config: DefaultBoxConfig, level: int) -> list[list[float]]:
    """Widths and heights at one level: the square, the square between this scale and the next, the ratios."""
    scale = config.scales[level]
    between = math.sqrt(scale * config.scales[level + 1])
    sizes = [[scale, scale], [between, between]]
    for ratio in config.aspect_ratios[level]:
        long, short = scale * math.sqrt(ratio), scale / math.sqrt(ratio)
        sizes += [[long, short], [short, long]]
    return sizes
