"""`BoxCoding`: how a model's offsets are scaled. Needs no PyTorch, so that comparing models does not either."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ssd_edge.errors import ModelFileError
from ssd_edge.option_checks import is_number

# The original prototxt's prior_variance: divisors of the offsets of centre (x, y) and size (width, height).
VARIANCES = (0.1, 0.1, 0.2, 0.2)
# exp() of a larger value would make boxes of more than 1000 / 16 times the default box (torchvision's BoxCoder).
LARGEST_LOG_SCALE = math.log(1000.0 / 16)


@dataclass(frozen=True)
class BoxCoding:
    """Variances and limits of a model's offsets.

    Attributes:
        variances: what the offsets of centre x, centre y, width and height are multiplied by.
        min_log_scale, max_log_scale: limits of the logarithm of box size / default box size; None: no limit.

    Raises:
        ValueError: variances that are not four positive numbers, limits that are not numbers or exclude each other.
    """

    variances: tuple[float, float, float, float] = VARIANCES
    min_log_scale: float | None = None
    max_log_scale: float | None = LARGEST_LOG_SCALE

    def __post_init__(self) -> None:
        object.__setattr__(self, "variances", tuple(self.variances))
        if len(self.variances) != 4 or not all(is_number(v) and 0 < v < math.inf for v in self.variances):
            raise ValueError(f"variances {self.variances}; expected four positive numbers")
        limits = [limit for limit in (self.min_log_scale, self.max_log_scale) if limit is not None]
        if not all(is_number(limit) and math.isfinite(limit) for limit in limits) or limits != sorted(limits):
            raise ValueError(f"limits of the log scale from {self.min_log_scale} to {self.max_log_scale}")

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: what `ModelCard.box_coding` holds."""
        return {**asdict(self), "variances": list(self.variances)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any] | None, *, source: str = "box coding") -> BoxCoding:
        """The inverse of `to_dict`, and the default for None; `source` names the file in messages.

        Raises:
            ModelFileError: not an object with just these fields, or values out of range.
        """
        if values is None:
            return cls()
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise ModelFileError(
                f"{source}: not a box coding ({error}); expected an object with variances (four numbers), "
                "min_log_scale and max_log_scale (numbers or null)"
            ) from error
