"""Which numbers a target's int8 graph has: what `ssd_edge.calib.placement` writes for it."""

from __future__ import annotations

from dataclasses import dataclass

from ssd_edge.errors import UsageError


@dataclass(frozen=True)
class Scheme:
    """Which numbers there are.

    Attributes:
        symmetric: activations have as many levels below zero as above, and zero in the middle; else they have all
            between the least and the greatest.
        largest_weight: of 8 bits; weights go from minus this to this.
        outputs: what a convolution gives is rounded even where no convolution reads it: in front of a hardswish, behind
            squeeze-and-excitation, at the end of a residual block's branch, and what the heads give. An addition reads
            what is rounded for the convolutions. Without `outputs` its residual input is rounded where the branch ends
            in a convolution that is, unless the addition stays float.
        bits: of weights and activations.

    Raises:
        UsageError: `bits` is not 2 to 8.
    """

    symmetric: bool
    largest_weight: int = 127
    outputs: bool = False
    bits: int = 8

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise UsageError(f"{self.bits} bits; expected 2 to 8")

    @property
    def weight_limit(self) -> int:
        """`largest_weight` where there are fewer bits than 8."""
        return self.largest_weight >> (8 - self.bits)

    @property
    def activations(self) -> tuple[int, int]:
        """Lowest and highest level: -128 and 127 where symmetric, else 0 and 255."""
        if self.symmetric:
            return -(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1
        return 0, 2**self.bits - 1

    def scale_and_zero_point(self, low: float, high: float) -> tuple[float, int]:
        """Step between levels, and the level of 0.0, for values from `low` to `high`; 0.0 is always among them."""
        low, high = min(low, 0.0), max(high, 0.0)
        if low == high:
            return 1.0, 0
        first, last = self.activations
        if self.symmetric:
            return max(-low, high) / last, 0
        scale = (high - low) / (last - first)
        return scale, min(last, max(first, round(first - low / scale)))


HARDSWISH_END = 3.0  # it is 0 below -3
# By target, as `ssd_edge.calib.placement.tensorrt` and `cpu` write their graphs.
SCHEMES = {
    "tensorrt": Scheme(symmetric=True),
    "cpu": Scheme(symmetric=False, largest_weight=64, outputs=True),
}
