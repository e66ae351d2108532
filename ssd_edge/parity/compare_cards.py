"""What two model cards say differently about how frames go in and detections come out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ssd_edge.card import ModelCard

# What goes wrong when a field differs. Class names are not here: models of other classes are not compared at all.
# What a card tells of its origin (precision, parent, data, metrics) may differ.
CAUSES = {
    "arch": "another network",
    "height": "preprocess: frames are resized differently",
    "width": "preprocess: frames are resized differently",
    "mean": "preprocess: pixels are normalised differently",
    "std": "preprocess: pixels are normalised differently",
    "default_boxes": "decoding: other default boxes",
    "box_coding": "decoding: other variances or limits",
    "score_function": "decoding: softmax or sigmoid",
    "category_ids": "labels: other category ids",
    "score_threshold": "suppression: another score threshold",
    "nms_iou": "suppression: another IoU",
    "clip_before_nms": "suppression: boxes are clipped before it, or behind it",
    "iou_epsilon": "suppression: another denominator of the IoU",
    "candidates": "suppression: another number of candidates",
    "detections": "suppression: another number of detections",
}
SHOWN = 60  # characters of a value


@dataclass(frozen=True)
class CardDifference:
    """A field that differs, its values as text, and what that leads to."""

    name: str
    reference: str
    model: str
    cause: str

    def __str__(self) -> str:
        return f"{self.name} {self.model}, not {self.reference}"


def card_differences(reference: ModelCard, model: ModelCard) -> tuple[CardDifference, ...]:
    """The fields in `CAUSES` that differ, in the order in which they take effect."""
    values = [(name, getattr(reference, name), getattr(model, name), cause) for name, cause in CAUSES.items()]
    return tuple(CardDifference(name, _text(a), _text(b), cause) for name, a, b, cause in values if a != b)


def _text(value: Any) -> str:
    text = "the architecture's own" if value is None else str(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
