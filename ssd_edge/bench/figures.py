"""Figures made of turns: frames a second, percentiles of latency, how many times as fast as the first model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ssd_edge.bench.turns import TurnTimes


@dataclass(frozen=True)
class Percentiles:
    """Of values in the unit of the values, linear between neighbours."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Percentiles:
        """Of at least one value."""
        p50, p95, p99 = np.percentile(values, (50, 95, 99))
        return cls(float(p50), float(p95), float(p99))


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of one value a round."""

    median: float
    q1: float
    q3: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        q1, median, q3 = np.percentile(values, (25, 50, 75))
        return cls(float(median), float(q1), float(q3))


@dataclass(frozen=True)
class Speed:
    """How fast one model was.

    Attributes:
        fps: frames a second end to end: counted frames by the time that they took.
        network_fps: the same of the time in the network alone.
        fps_rounds: frames a second end to end, as a spread over rounds.
        latency_ms, network_ms: of a call, which is a batch of frames.
        calls: counted calls.
        detections_a_frame: mean.
        times_as_fast: as the first model, by the median latency of each round; None where that was not measured.
        power_w: mean power by reader while the model ran, what the machine draws anyway included.
        energy_mj: of a frame, of all readers together; None where no power is told.
    """

    fps: float
    network_fps: float
    fps_rounds: Spread
    latency_ms: Percentiles
    network_ms: Percentiles
    calls: int
    detections_a_frame: float
    times_as_fast: Spread | None
    power_w: dict[str, float]
    energy_mj: float | None


def speed_of(turns: Sequence[TurnTimes], batch: int, first: Sequence[TurnTimes]) -> Speed:
    """The figures of one model's turns, compared with those of the first model by round.

    Args:
        turns: at least one, in the order of rounds.
        first: the first model's; the rounds that both have are compared.
    """
    total_ms = np.concatenate([turn.total_ms for turn in turns])
    infer_ms = np.concatenate([turn.infer_ms for turn in turns])
    fps = 1e3 * batch * len(total_ms) / total_ms.sum()
    power_w = _mean_power(turns)
    return Speed(
        fps=float(fps),
        network_fps=float(1e3 * batch * len(infer_ms) / infer_ms.sum()),
        fps_rounds=Spread.of([1e3 * batch * len(turn.total_ms) / sum(turn.total_ms) for turn in turns]),
        latency_ms=Percentiles.of(total_ms.tolist()),
        network_ms=Percentiles.of(infer_ms.tolist()),
        calls=len(total_ms),
        detections_a_frame=sum(turn.detections for turn in turns) / (batch * len(total_ms)),
        times_as_fast=times_as_fast(turns, first),
        power_w=power_w,
        energy_mj=float(1e3 * sum(power_w.values()) / fps) if power_w else None,
    )


def times_as_fast(turns: Sequence[TurnTimes], first: Sequence[TurnTimes]) -> Spread | None:
    """Latency of the first model by latency of this one, each the median of its turn, over the rounds of both.

    Within a round both met the same state of the machine, which a ratio of two overall figures would not know.
    """
    pairs = zip(turns, first, strict=False)
    ratios = [float(np.median(other.total_ms) / np.median(turn.total_ms)) for turn, other in pairs]
    return Spread.of(ratios) if ratios else None


def _mean_power(turns: Sequence[TurnTimes]) -> dict[str, float]:
    """By reader, each turn weighted by how long it took; without readers that missed a turn."""
    seconds = [sum(turn.total_ms) for turn in turns]
    names = [name for name in turns[0].power_w if all(name in turn.power_w for turn in turns)]
    return {name: float(np.average([turn.power_w[name] for turn in turns], weights=seconds)) for name in names}
