"""`MaxDrop`: how much mAP a model may lose."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ssd_edge.errors import UsageError


@dataclass(frozen=True)
class MaxDrop:
    """How much mAP a model may lose: a share of the reference's, or absolute points.

    Attributes:
        value: a fraction, 0 up to 1.
        relative: a share of the reference's mAP; else points of mAP, where 0.01 is one of 100 points.
    """

    value: float
    relative: bool

    @classmethod
    def parse(cls, text: str) -> MaxDrop:
        """Read `1%` (of the reference's mAP) or `0.01` (absolute: from 0.300 down to 0.290).

        Raises:
            UsageError: neither, or out of range.
        """
        relative = text.strip().endswith("%")
        try:
            value = float(text.strip().removesuffix("%"))
        except ValueError:
            value = math.nan
        if relative:
            value /= 100
        if not 0 <= value < 1:  # NaN fails too
            raise UsageError(
                f"the largest drop {text!r} is not understood; give a share of the reference's mAP such as "
                "1%, or an absolute drop such as 0.005, from 0 to below 1"
            )
        return cls(value, relative)

    def floor(self, reference: float) -> float:
        """The least mAP that passes."""
        return reference * (1 - self.value) if self.relative else reference - self.value

    def __str__(self) -> str:
        return f"{100 * self.value:g}%" if self.relative else f"{self.value:g}"
