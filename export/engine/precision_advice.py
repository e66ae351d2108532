"""Whether int8 is worth it: an int8 engine against the fp16 one of the same model, both timed on this GPU when built.

Int8 is not always faster than fp16: it costs conversions, and not every layer has an int8 kernel.
"""

from __future__ import annotations

from pathlib import Path

from ssd_edge.errors import ModelFileError
from ssd_edge.runtime.tensorrt.engine_card import EngineCard, engine_card_path, read_engine_card

OTHER = {"int8": "fp16", "fp16": "int8"}
SAME_ENGINE = ("flavour", "tensorrt_version", "gpu_name", "compute_capability", "batch", "dla")
SAME_MODEL = ("arch", "height", "width", "class_names", "default_boxes", "parent_sha256")


def compare_precisions(engine: Path, card: EngineCard) -> str | None:
    """Which of int8 and fp16 to use, by the times in the cards in the engine's folder.

    Args:
        engine: the engine that was just built; it need not be there yet.
        card: its card.

    Returns:
        A sentence; None: the engine is neither, or was not timed, or it is fp16 and there is no int8 one.
    """
    if card.run_ms is None or card.model.precision not in OTHER:
        return None
    found = _fastest_other(engine, card)
    if found is None:
        return _how_to_compare(card) if card.model.precision == "int8" else None
    path, other = found
    assert other.run_ms is not None
    times_ms = {card.model.precision: card.run_ms, other.model.precision: other.run_ms}
    measured = (
        f"{card.model.precision} takes {card.run_ms:.3g} ms, {other.model.precision} ({path.name}, of "
        f"{other.onnx_name}) {other.run_ms:.3g} ms, at batch {card.batch.optimum}"
    )
    speedup = times_ms["fp16"] / times_ms["int8"]
    if round(speedup, 2) <= 1:
        return f"{measured}: int8 is not faster on this GPU; use fp16"
    return f"{measured}: int8 is {speedup:.2f} times as fast on this GPU"


def _how_to_compare(card: EngineCard) -> str:
    return (
        "whether int8 is faster than fp16 on this GPU is not known; compare them with: "
        f"ssd-edge bench FP16.onnx {card.onnx_name} --data DATA"
    )


def _fastest_other(engine: Path, card: EngineCard) -> tuple[Path, EngineCard] | None:
    """The fastest engine next to this one that differs from it in precision alone."""
    found = []
    for path in sorted(engine.parent.glob("*.engine")):
        if path == engine or not engine_card_path(path).is_file():
            continue
        try:
            other = read_engine_card(path)
        except ModelFileError:  # of another version of ssd-edge; who opens that engine is told
            continue
        if other.run_ms is not None and _differ_in_precision_alone(card, other):
            found.append((other.run_ms, path, other))
    return min(found)[1:] if found else None


def _differ_in_precision_alone(card: EngineCard, other: EngineCard) -> bool:
    return (
        other.model.precision == OTHER[card.model.precision]
        and all(getattr(other, name) == getattr(card, name) for name in SAME_ENGINE)
        and all(getattr(other.model, name) == getattr(card.model, name) for name in SAME_MODEL)
    )
