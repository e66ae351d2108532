"""Recovery: give the fewest layers back to float until an int8 model is accurate enough.

Which layers hurt is measured one at a time (per-layer sensitivity): how far the outputs move with that layer alone in
int8. Then the layers are given back from the most harmful one on, as many as the bound needs, found by doubling
and halving, which takes about ten measurements of mAP. At last every layer given back is tried in int8 again, least
harmful first, one more measurement each, and stays so where the bound holds without it. That is greedy: no other choice
of as many layers is tried.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass

LARGE_COST = 1.2  # times as slow as all in int8: worth a fine-tuning instead


@dataclass(frozen=True)
class Sensitivity:
    """How far a model's outputs move when one layer alone is int8: the mean squared error of `Trials.error`."""

    layer: str
    error: float


@dataclass(frozen=True)
class Point:
    """A model on the curve of accuracy against speed.

    Attributes:
        kept_float: layers given back, most harmful first.
        ap: mAP on the validation data.
        cost: time of a run, or what stands for it.
    """

    kept_float: tuple[str, ...]
    ap: float
    cost: float


@dataclass(frozen=True)
class Recovery:
    """What was found.

    Attributes:
        floor: the least AP that is enough.
        chosen: the point to use; its AP is below the floor where nothing was enough.
        curve: all points measured, fewest float layers first; the last may be all of them.
        ranking: every layer, most harmful first; empty where int8 was accurate enough at once.
        cost_unit: what `Point.cost` compares.
    """

    reference_ap: float
    floor: float
    chosen: Point
    curve: tuple[Point, ...]
    ranking: tuple[Sensitivity, ...] = ()
    cost_unit: str = "time"

    @property
    def enough(self) -> bool:
        """Whether the bound holds."""
        return self.chosen.ap >= self.floor

    @property
    def cost_ratio(self) -> float:
        """Cost of what was chosen, relative to all layers in int8."""
        return self.chosen.cost / self.curve[0].cost

    @property
    def costly(self) -> bool:
        """Whether what was given back costs more than a fifth of the speed."""
        return self.cost_ratio > LARGE_COST

    @property
    def wants_finetuning(self) -> bool:
        """Whether giving layers back did not do, or costs more than a fifth of the speed."""
        return not self.enough or self.costly

    def better_than(self, other: Recovery) -> bool:
        """Whether this holds the bound, and costs less where the other does too."""
        return self.enough and not (other.enough and self.cost_ratio >= other.cost_ratio)

    def to_json(self) -> str:
        """All of it as JSON text."""
        return json.dumps({**asdict(self), "enough": self.enough, "costly": self.costly}, indent=2)

    def __str__(self) -> str:
        first, chosen = self.curve[0], self.chosen
        lines = [
            f"AP {self.reference_ap:.4f} in float, {first.ap:.4f} in int8; at least {self.floor:.4f} was asked for"
        ]
        if chosen.kept_float:
            lines.append(
                f"{len(chosen.kept_float)} of {len(self.ranking)} layers given back to float: AP {chosen.ap:.4f}, "
                f"{self.cost_unit} × {self.cost_ratio:.2f}: {', '.join(chosen.kept_float)}"
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class Trials:
    """How recovery tries a model; each takes the layers that stay float.

    Attributes:
        ap: mAP on the validation data.
        error: mean squared error of the raw outputs against the float model's, on a few images.
        cost: time of a run, or what stands for it.
    """

    ap: Callable[[Collection[str]], float]
    error: Callable[[Collection[str]], float]
    cost: Callable[[Collection[str]], float]


def recover(
    layers: Sequence[str],
    trials: Trials,
    *,
    reference_ap: float,
    floor: float,
    cost_unit: str = "time",
    say: Callable[[str], None] = lambda _: None,
) -> Recovery:
    """Find the fewest layers to give back.

    Args:
        layers: names of all layers that can be int8.
        trials: how to try a choice.
        reference_ap: of the float model.
        floor: the least AP that is enough.
        say: told what goes on, a line each.
    """
    points: dict[tuple[str, ...], Point] = {}

    def measure(kept: tuple[str, ...]) -> Point:
        if kept not in points:
            points[kept] = Point(kept, trials.ap(kept), trials.cost(kept))
            say(f"{len(kept)} of {len(layers)} layers in float: AP {points[kept].ap:.4f}, {floor:.4f} is needed")
        return points[kept]

    def result(chosen: Point, ranking: Sequence[Sensitivity] = ()) -> Recovery:
        curve = sorted(points.values(), key=lambda point: len(point.kept_float))
        return Recovery(reference_ap, floor, chosen, tuple(curve), tuple(ranking), cost_unit)

    whole = measure(())
    if whole.ap >= floor or not layers:
        return result(whole)
    ranking = rank(layers, trials.error, say)
    order = [entry.layer for entry in ranking]
    count = _fewest(len(order), lambda n: measure(tuple(order[:n])).ap >= floor)
    chosen = measure(tuple(order[:count]))
    if chosen.ap < floor:
        return result(chosen, ranking)
    for layer in reversed(order[: count - 1]):  # without the last one it was not enough
        fewer = tuple(name for name in chosen.kept_float if name != layer)
        if measure(fewer).ap >= floor:
            chosen = points[fewer]
    return result(chosen, ranking)


def rank(
    layers: Sequence[str], error: Callable[[Collection[str]], float], say: Callable[[str], None] = lambda _: None
) -> list[Sensitivity]:
    """Per-layer sensitivity, most harmful layer first; equal ones in the order given."""
    found = []
    for number, layer in enumerate(layers, start=1):
        found.append(Sensitivity(layer, error([name for name in layers if name != layer])))
        say(f"sensitivity {number} of {len(layers)}: {layer} {found[-1].error:.2e}")
    return sorted(found, key=lambda entry: -entry.error)


def _fewest(most: int, enough: Callable[[int], bool]) -> int:
    """The smallest count from 1 to `most` that is enough, by doubling and halving; `most` where none is.

    AP is not strictly monotonic in the count; the count found is enough, and the one before it was not.
    """
    below, count = 0, 1
    while count < most and not enough(count):
        below, count = count, min(2 * count, most)
    while count - below > 1:
        middle = (below + count) // 2
        if enough(middle):
            count = middle
        else:
            below = middle
    return count
