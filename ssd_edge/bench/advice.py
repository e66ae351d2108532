"""What int8 gained: where it is not measurably faster than half or single precision, the report recommends that."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from ssd_edge.bench.figures import Speed, Spread, times_as_fast
from ssd_edge.bench.report import ModelFigures
from ssd_edge.bench.turns import LEAST_ROUNDS, TurnTimes

# What int8 has to beat. On a processor half precision is slower than single, so that it is no alternative there.
ALTERNATIVES = {"cpu": ("fp32",), "gpu": ("fp16", "fp32")}
ON_CPU = ("ONNX Runtime", "PyTorch cpu")


def int8_advice(models: Sequence[ModelFigures], turns: Mapping[str, Sequence[TurnTimes]]) -> tuple[str, ...]:
    """A note for each int8 model that is not measurably faster than another model of the same checkpoint and backend.

    Measurably faster: in at least three quarters of the rounds, so that the lower quartile of the ratio is above 1. Of
    several alternatives, the fastest is recommended. With fewer than `LEAST_ROUNDS` rounds nothing is said.

    Args:
        models: with their figures; those without a speed or `parent_sha256` are left out.
        turns: of each model, by its name, in the order of rounds.
    """
    return tuple(note for model in models if model.precision == "int8" for note in _notes_on(model, models, turns))


def _notes_on(
    int8: ModelFigures, models: Sequence[ModelFigures], turns: Mapping[str, Sequence[TurnTimes]]
) -> Iterator[str]:
    better: list[tuple[float, ModelFigures, Spread]] = []
    for other in models:
        if _is_alternative(int8, other):
            mine, its = turns[int8.name], turns[other.name]
            ratio = times_as_fast(mine, its)
            if ratio is not None and min(len(mine), len(its)) >= LEAST_ROUNDS and ratio.q1 <= 1:
                better.append((ratio.median, other, ratio))
    if not better:
        return
    _, other, ratio = min(better, key=lambda item: item[0])
    word = "slower" if ratio.q3 < 1 else "not measurably faster"
    assert int8.speed is not None
    assert other.speed is not None
    yield (
        f"note: {int8.name} (int8) is {word} than {other.name} ({other.precision}) on {int8.backend}: median latency "
        f"{_ms(int8.speed)} against {_ms(other.speed)} ms, {ratio.median:.2f} ({ratio.q1:.2f}–{ratio.q3:.2f}) times as "
        f"fast{_accuracy(int8, other)}; take {other.name}"
    )


def _is_alternative(int8: ModelFigures, other: ModelFigures) -> bool:
    """Another precision of the same checkpoint, measured on the same backend."""
    device = "cpu" if int8.backend in ON_CPU else "gpu"
    return (
        int8.speed is not None
        and other.speed is not None
        and int8.parent_sha256 is not None
        and (int8.parent_sha256, int8.backend) == (other.parent_sha256, other.backend)
        and other.precision in ALTERNATIVES[device]
    )


def _ms(speed: Speed) -> str:
    return f"{speed.latency_ms.p50:.2f}"


def _accuracy(int8: ModelFigures, other: ModelFigures) -> str:
    if int8.ap is None or other.ap is None or math.isnan(int8.ap + other.ap):
        return ""
    return f", AP {int8.ap:.4f} against {other.ap:.4f}"
