"""`ParityReport`: what `parity` measured, as text and as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

from ssd_edge.errors import GateFailedError
from ssd_edge.parity.max_drop import MaxDrop
from ssd_edge.parity.stages import UNITS, Stage, StagedComparison
from ssd_edge.parity.tolerances import DECODING

WORST_SHOWN = 3  # images that the text names; JSON and HTML have all


@dataclass(frozen=True)
class ModelParity:
    """One model's figures; `drop` is how much AP it loses against the reference, negative where it gains.

    Attributes:
        comparison: stage by stage with the reference; None where that was not asked for, and of the reference.
    """

    model: str
    precision: str
    ap: float
    ap50: float
    drop: float
    passed: bool
    comparison: StagedComparison | None = None


@dataclass(frozen=True)
class ParityReport:
    """What `parity` measured.

    Attributes:
        reference: the reference's figures; its drop is 0.
        models: one entry a model, in the order given.
        class_names: of all models, in label order.
        floor: the least AP that passes.
        notes: what a reader has to know to read the figures.
    """

    dataset: str
    images: int
    max_drop: MaxDrop
    floor: float
    reference: ModelParity
    models: tuple[ModelParity, ...]
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[ModelParity, ...]:
        """Models that fall short."""
        return tuple(model for model in self.models if not model.passed)

    def table(self) -> str:
        """The figures as text, one line a model; then, where stages were compared, one line a stage of each model."""
        rows = (self.reference, *self.models)
        width = max(len(row.model) for row in rows)
        lines = [f"{'model':<{width}}  precision      AP    AP50     drop"]
        for row in rows:
            verdict = "reference" if row is self.reference else "pass" if row.passed else "FALLS SHORT"
            figures = f"{row.ap:.4f}  {row.ap50:.4f}  {row.drop:+.4f}"
            lines.append(f"{row.model:<{width}}  {row.precision:<9}  {figures}  {verdict}")
        lines.append(f"\n{self.dataset}: {self.images} images; at most {self.max_drop} lost, so AP ≥ {self.floor:.4f}")
        for row in self.models:
            if row.comparison is not None:
                lines += ["", f"{row.model} against {self.reference.model}", *stage_lines(row.comparison)]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The figures as in the JSON; what is not finite becomes None."""
        values = {
            "dataset": self.dataset,
            "images": self.images,
            "max_drop": asdict(self.max_drop),
            "floor": self.floor,
            "reference": _model_dict(self.reference),
            "models": [_model_dict(model) for model in self.models],
            "notes": list(self.notes),
            "passed": not self.failed,
        }
        return {name: _json_value(value) for name, value in values.items()}

    def to_json(self) -> str:
        """The figures as JSON text; NaN and infinity (the SNR of equal tensors) become null."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=2)

    def check(self) -> None:
        """Do nothing when every model passed.

        Raises:
            GateFailedError: names those that fall short.
        """
        if self.failed:
            short = ", ".join(f"{model.model} (AP {model.ap:.4f})" for model in self.failed)
            raise GateFailedError(
                f"parity failed: {short}, but AP ≥ {self.floor:.4f} was asked for, at most {self.max_drop} "
                f"below the reference's {self.reference.ap:.4f}; export it again, or allow a larger drop"
            )


COLUMNS = ("max", "mean", "p99.9", "cosine", "SNR dB", "decoding")


def stage_lines(comparison: StagedComparison) -> list[str]:
    """A comparison as text: a line a stage, the conclusion, the worst images."""
    head = "  ".join(f"{title:>9}" for title in COLUMNS)
    lines = [f"  {'stage':<18}  {head}  {'allowed':>8}"]
    for stage in comparison.stages:
        name = f"{stage.name}, {UNITS[stage.name]}" if UNITS.get(stage.name) else stage.name
        if stage.difference is None or stage.found:
            lines.append(f"  {name:<18}  {_line_end(stage)}")
        else:
            figures = "  ".join(f"{figure:>9}" for figure in stage_figures(stage))
            lines.append(f"  {name:<18}  {figures}  {stage.allowed:>8}  {verdict(stage)}")
    lines.append(f"  {comparison.conclusion}")
    lines += [f"  {image.path}: {image.counts}" for image in comparison.worst[:WORST_SHOWN] if image.differs]
    lines.append(
        f"  bounds of {comparison.tolerance.precision}; decoding: how far boxes and scores are from what the model's "
        f"own offsets and logits decode into, ≤ {DECODING:.0e}"
    )
    return lines


def stage_figures(stage: Stage) -> tuple[str, ...]:
    """The figures in `COLUMNS` of a stage with a difference."""
    difference = stage.difference
    assert difference is not None
    sizes = (f"{value:.2e}" for value in (difference.max, difference.mean, difference.p999))
    snr = "∞" if difference.snr_db == math.inf else f"{difference.snr_db:.1f}"
    redecoded = "" if stage.redecoded is None else f"{stage.redecoded:.1e}"
    return (*sizes, f"{difference.cosine:.6f}", snr, redecoded)


def verdict(stage: Stage) -> str:
    """One word or two."""
    if stage.departs is None:
        return "not compared"
    return "DEPARTS" if stage.departs else "ok"


def _line_end(stage: Stage) -> str:
    allowed = f" (allowed: {stage.allowed})" if stage.allowed else ""
    return f"{stage.found}{allowed}  {verdict(stage)}"


def _model_dict(model: ModelParity) -> dict[str, Any]:
    names = ("model", "precision", "ap", "ap50", "drop", "passed")
    values = {name: getattr(model, name) for name in names}
    if model.comparison is not None:
        values["comparison"] = _comparison_dict(model.comparison)
    return values


def _comparison_dict(comparison: StagedComparison) -> dict[str, Any]:
    return {
        "tolerance": {**asdict(comparison.tolerance), "decoding": DECODING},
        "first_stage_that_departs": comparison.first.name if comparison.first else None,
        "conclusion": comparison.conclusion,
        "card": [asdict(difference) for difference in comparison.card],
        "stages": [asdict(stage) for stage in comparison.stages],
        "detections": asdict(comparison.detections),
        "worst_images": [
            {
                "path": str(image.path),
                "missed": int(image.pairs.missed.sum()),
                "extra": int(image.pairs.extra.sum()),
                "shifted": int(image.pairs.shifted_reference.sum()),
                "badness": image.pairs.badness,
            }
            for image in comparison.worst
        ],
    }


def _json_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _json_value(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
