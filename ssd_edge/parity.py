"""Whether exported models detect as well as the PyTorch checkpoint they came from, proven by mAP."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ssd_edge.card import ModelCard, file_sha256
from ssd_edge.data.dataset import DetectionDataset
from ssd_edge.errors import GateFailedError, ModelFileError, UsageError
from ssd_edge.evaluation.evaluate import Evaluation, evaluate
from ssd_edge.runtime.detector import open_detector


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


@dataclass(frozen=True)
class ModelParity:
    """One model's figures; `drop` is how much AP it loses against the reference, negative where it gains."""

    model: str
    precision: str
    ap: float
    ap50: float
    drop: float
    passed: bool


@dataclass(frozen=True)
class ParityReport:
    """What `parity` measured.

    Attributes:
        reference: the checkpoint's figures; its drop is 0.
        models: one entry a model, in the order given.
        floor: the least AP that passes.
        notes: what a reader has to know to read the figures.
    """

    dataset: str
    images: int
    max_drop: MaxDrop
    floor: float
    reference: ModelParity
    models: tuple[ModelParity, ...]
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[ModelParity, ...]:
        """Models that fall short."""
        return tuple(model for model in self.models if not model.passed)

    def table(self) -> str:
        """The figures as text, one line a model."""
        rows = (self.reference, *self.models)
        width = max(len(row.model) for row in rows)
        lines = [f"{'model':<{width}}  precision      AP    AP50     drop"]
        for row in rows:
            verdict = "reference" if row is self.reference else "pass" if row.passed else "FALLS SHORT"
            figures = f"{row.ap:.4f}  {row.ap50:.4f}  {row.drop:+.4f}"
            lines.append(f"{row.model:<{width}}  {row.precision:<9}  {figures}  {verdict}")
        lines.append(f"\n{self.dataset}: {self.images} images; at most {self.max_drop} lost, so AP ≥ {self.floor:.4f}")
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)

    def to_json(self) -> str:
        """The figures as JSON text."""
        return json.dumps({**asdict(self), "passed": not self.failed}, ensure_ascii=False, indent=2)

    def check(self) -> None:
        """Do nothing when every model passed.

        Raises:
            GateFailedError: names those that fall short.
        """
        if self.failed:
            short = ", ".join(f"{model.model} (AP {model.ap:.4f})" for model in self.failed)
            raise GateFailedError(
                f"parity failed: {short}, but AP ≥ {self.floor:.4f} was asked for, at most {self.max_drop} "
                f"below the checkpoint's {self.reference.ap:.4f}; export it again, or allow a larger drop"
            )


def parity(
    checkpoint: Path,
    models: Sequence[Path],
    dataset: DetectionDataset,
    *,
    max_drop: MaxDrop,
    threads: int | None = None,
    progress: bool = True,
) -> ParityReport:
    """Measure each model's mAP on `dataset` and compare it with the checkpoint's in PyTorch.

    Raises:
        ModelFileError: a file that cannot be opened, or a model that detects other classes.
        GateFailedError: the checkpoint itself finds nothing, so there is nothing to compare with.
        DatasetError: as `evaluate`.
    """
    cards, figures, notes = [], [], []
    parent = file_sha256(checkpoint) if checkpoint.is_file() else None
    for path in (checkpoint, *models):  # open all of them before the first long evaluation
        with open_detector(path, threads=threads) as detector:
            cards.append(detector.card)
    for path, card in zip(models, cards[1:], strict=True):
        _check_classes(checkpoint, cards[0], path, card)
        if card.parent_sha256 not in (None, parent):
            notes.append(f"{path} was exported from another checkpoint file than {checkpoint}")
    for path in (checkpoint, *models):
        with open_detector(path, threads=threads) as detector:
            figures.append(evaluate(detector, dataset, progress=progress))
    reference = figures[0].metrics["AP"]
    if not reference > 0:
        raise GateFailedError(
            f"{checkpoint} has AP {reference:.4f} on {dataset.name}: there is nothing to compare with; "
            "give the data that it was trained for, or train it further"
        )
    floor = max_drop.floor(reference)
    rows = [
        _row(path, card, figure, reference, floor)
        for path, card, figure in zip((checkpoint, *models), cards, figures, strict=True)
    ]
    return ParityReport(
        dataset=dataset.name,
        images=len(dataset),
        max_drop=max_drop,
        floor=floor,
        reference=rows[0],
        models=tuple(rows[1:]),
        notes=(*notes, *figures[0].notes),
    )


def _check_classes(checkpoint: Path, reference: ModelCard, path: Path, card: ModelCard) -> None:
    if card.class_names != reference.class_names:
        ours, theirs = (", ".join(names.class_names[:5]) for names in (card, reference))
        raise ModelFileError(
            f"{path} detects {len(card.class_names)} classes ({ours}, …), but {checkpoint} "
            f"{len(reference.class_names)} ({theirs}, …); compare models that were exported from it"
        )


def _row(path: Path, card: ModelCard, figure: Evaluation, reference: float, floor: float) -> ModelParity:
    ap = figure.metrics["AP"]
    return ModelParity(
        model=str(path),
        precision=card.precision,
        ap=ap,
        ap50=figure.metrics["AP50"],
        drop=reference - ap,
        passed=ap >= floor,
    )
