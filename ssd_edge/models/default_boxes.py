"""Default boxes (anchors): where they are depends on the grid of each feature map alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ssd_edge.errors import ModelFileError

CLIPS = ("centres", "corners")  # the words that `DefaultBoxConfig.clip` may be


@dataclass(frozen=True)
class DefaultBoxConfig:
    """How default boxes tile an image; page 6 of the SSD paper (arXiv:1512.02325).

    Attributes:
        aspect_ratios: the ratios other than 1 of each level; each is used twice, lying and standing.
        scales: side of the square box of each level as a fraction of the image, and one more for the last
            level's larger square. `linear_scales` makes evenly spaced ones.
        steps: pixels between neighbouring boxes of each level, or None: image size / grid size.
        clip: what is limited to the image: True, width and height, as torchvision does; `"centres"`, the centre too, as
            amdegroot/ssd.pytorch does; `"corners"`, the corners, as Caffe does; False, nothing.
        shapes: where aspect ratios and scales are empty, (width, height) of each default box at a position of each
            level, as fractions of the image, in the order of the head's columns: those of another project.
        offset: where in its cell a box is centred, as a fraction of the step.

    Raises:
        ValueError: no level, lengths that do not fit together, or numbers that are not positive and finite.
    """

    aspect_ratios: tuple[tuple[float, ...], ...] = ()
    scales: tuple[float, ...] = ()
    steps: tuple[float, ...] | None = None
    clip: bool | str = True
    shapes: tuple[tuple[tuple[float, float], ...], ...] | None = None
    offset: float = 0.5

    def __post_init__(self) -> None:
        if self.levels == 0:
            raise ValueError("no aspect_ratios; expected those of one level at least")
        if self.shapes is not None and (self.aspect_ratios or self.scales):
            raise ValueError("shapes as well as aspect_ratios or scales; expected one of both")
        if self.shapes is None and len(self.scales) != self.levels + 1:
            raise ValueError(f"{self.levels} levels need {self.levels + 1} scales, got {len(self.scales)}")
        if self.steps is not None and len(self.steps) != self.levels:
            raise ValueError(f"{self.levels} levels need {self.levels} steps, got {len(self.steps)}")
        if not (isinstance(self.clip, bool) or self.clip in CLIPS):
            raise ValueError(f"clip is {self.clip!r}, expected true, false, {' or '.join(CLIPS)}")
        shapes = [shape for level in self.shapes or () for shape in level]
        if not all(self.shapes or (True,)) or any(len(shape) != 2 for shape in shapes):
            raise ValueError("shapes must have (width, height) pairs for each level")
        ratios = (ratio for level in self.aspect_ratios for ratio in level)
        numbers = (*ratios, *self.scales, *(self.steps or ()), *(side for shape in shapes for side in shape))
        if wrong := [number for number in numbers if not 0 < number < math.inf]:  # NaN too
            names = "aspect_ratios, scales and steps" if self.shapes is None else "shapes and steps"
            raise ValueError(f"{wrong[0]} among {names}; they must be positive and finite")
        if not 0 <= self.offset <= 1:
            raise ValueError(f"offset {self.offset}; expected a fraction of a step, from 0 to 1")

    @property
    def levels(self) -> int:
        """Feature maps that the default boxes are for."""
        return len(self.aspect_ratios if self.shapes is None else self.shapes)

    @property
    def boxes_per_cell(self) -> tuple[int, ...]:
        """Default boxes at each position of each level: two squares and two for each aspect ratio, or the shapes."""
        if self.shapes is not None:
            return tuple(map(len, self.shapes))
        return tuple(2 + 2 * len(ratios) for ratios in self.aspect_ratios)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: what `ModelCard.default_boxes` holds. `shapes` and `offset` only where they are needed."""
        values: dict[str, Any] = {
            "aspect_ratios": [list(ratios) for ratios in self.aspect_ratios],
            "scales": list(self.scales),
            "steps": None if self.steps is None else list(self.steps),
            "clip": self.clip,
        }
        if self.shapes is not None:
            values["shapes"] = [[list(shape) for shape in level] for level in self.shapes]
        if self.offset != 0.5:
            values["offset"] = self.offset
        return values

    @classmethod
    def from_dict(cls, values: Any, *, source: str = "default boxes") -> DefaultBoxConfig:
        """The inverse of `to_dict`; `source` names the file in messages.

        Raises:
            ModelFileError: not an object with just these fields, or values that do not fit together.
        """
        try:
            steps, shapes = values["steps"], values.get("shapes")
            if unknown := values.keys() - {"aspect_ratios", "scales", "steps", "clip", "shapes", "offset"}:
                raise ValueError(f"unknown fields {sorted(unknown)}")
            return cls(
                aspect_ratios=tuple(tuple(map(_number, ratios)) for ratios in values["aspect_ratios"]),
                scales=tuple(map(_number, values["scales"])),
                steps=None if steps is None else tuple(map(_number, steps)),
                clip=values["clip"],
                shapes=None if shapes is None else tuple(tuple(map(_pair, level)) for level in shapes),
                offset=_number(values.get("offset", 0.5)),
            )
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise ModelFileError(
                f"{source}: not default boxes ({type(error).__name__}: {error}); expected an object with "
                "aspect_ratios (a list of numbers a level), scales (one more than levels), steps (one a level, or "
                "null) and clip (true, false, centres or corners); of another project shapes ([width, height] pairs a "
                "level) instead of ratios and scales"
            ) from error


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is not a number")
    return value


def _pair(value: Any) -> tuple[float, float]:
    width, height = map(_number, value)
    return width, height


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
        centre_y = (torch.arange(rows) + config.offset) / y_count
        centre_x = (torch.arange(columns) + config.offset) / x_count
        grid_y, grid_x = torch.meshgrid(centre_y, centre_x, indexing="ij")
        centres = torch.stack((grid_x, grid_y), dim=-1)  # [rows, columns, 2]
        sizes = sizes_wh(config, k)  # [shapes, 2]
        if config.clip == "centres":
            centres = centres.clamp(0, 1)
        centres = centres[:, :, None].expand(-1, -1, len(sizes), -1).reshape(-1, 2)
        half = 0.5 * sizes.repeat(rows * columns, 1)
        levels.append(torch.cat((centres - half, centres + half), dim=1))
    boxes = torch.cat(levels)  # [anchors, 4]
    return boxes.clamp(0, 1) if config.clip == "corners" else boxes


def sizes_wh(config: DefaultBoxConfig, level: int) -> Tensor:
    """Widths and heights at one level, as far as they are limited before boxes are placed.

    Returns:
        float32 [shapes, 2]: the square, the square between this scale and the next, the ratios; or `config.shapes`.
    """
    if config.shapes is not None:
        sizes = torch.tensor(config.shapes[level])
    else:
        sizes = torch.tensor(
            _sizes_by_ratio(config.scales[level], config.scales[level + 1], config.aspect_ratios[level])
        )
    return sizes.clamp(0, 1) if config.clip in (True, "centres") else sizes


def _sizes_by_ratio(scale: float, next_scale: float, aspect_ratios: Sequence[float]) -> list[list[float]]:
    between = math.sqrt(scale * next_scale)
    sizes = [[scale, scale], [between, between]]
    for ratio in aspect_ratios:
        long, short = scale * math.sqrt(ratio), scale / math.sqrt(ratio)
        sizes += [[long, short], [short, long]]
    return sizes
