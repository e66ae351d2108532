"""What the outputs of a foreign SSD mean, told by what they give for a few images.

An output is taken for boxes or scores only where its values leave no doubt; the message of a refusal says what the
values look like.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssd_edge.card import SIGMOID, SOFTMAX
from ssd_edge.errors import ModelFileError

Outputs = Mapping[str, NDArray[np.float32]]  # by name, [images, anchors, columns] each
EXPECTED = "expected boxes [batch, anchors, 4] as corners, and scores [batch, anchors, classes]"
SUM_TOLERANCE = 1e-2  # of the probabilities of an anchor, which half may round
ORDERED = 0.999  # share of boxes whose corners are in order; the rest may be rounded
ROUGHER = 2.0  # times: how much more x changes along the anchors than y


class Columns(NamedTuple):
    """Columns of an output: `begin` to `end`, all that there are where `end` is None."""

    output: str
    begin: int = 0
    end: int | None = None

    def of(self, outputs: Outputs) -> NDArray[np.float32]:
        """The columns [images, anchors, end − begin]."""
        return outputs[self.output][..., self.begin : self.end]


@dataclass(frozen=True)
class BoxForm:
    """How four numbers are a box.

    Attributes:
        centre: centre x, centre y, width, height; else corners.
        rows_first: y before x.
        pixels: in pixels of the input; else fractions of the image.
    """

    centre: bool = False
    rows_first: bool = False
    pixels: bool = False


@dataclass(frozen=True)
class Meaning:
    """Where boxes and scores are, and what has to be done to them.

    Attributes:
        size_wh: of the network's input.
        score_function: `softmax` or `sigmoid`, whether applied already or not.
        logits: the function is not applied yet.
        columns: of the scores.
    """

    boxes: Columns
    form: BoxForm
    size_wh: tuple[int, int]
    scores: Columns
    score_function: str
    logits: bool
    columns: int

    def read(self, outputs: Outputs) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Boxes [images, anchors, 4] as corners in fractions of the image, and scores of all columns, in NumPy."""
        boxes = corners(self.boxes.of(outputs), self.form, self.size_wh)
        scores = self.scores.of(outputs)
        if not self.logits:
            return boxes, scores
        if self.score_function == SIGMOID:
            return boxes, np.asarray(1 / (1 + np.exp(-scores)), np.float32)
        powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return boxes, powers / powers.sum(axis=-1, keepdims=True)


def corners(values: NDArray[np.float32], form: BoxForm, size_wh: tuple[int, int]) -> NDArray[np.float32]:
    """Boxes [..., 4] of a form as x0 y0 x1 y1 in fractions of the image."""
    boxes = values[..., [1, 0, 3, 2]] if form.rows_first else values
    if form.centre:
        half = boxes[..., 2:] / 2
        boxes = np.concatenate([boxes[..., :2] - half, boxes[..., :2] + half], axis=-1)
    if form.pixels:
        boxes = np.asarray(boxes / np.array(size_wh * 2, np.float32), np.float32)
    return boxes


def find_meaning(path: Path, outputs: Outputs, size_wh: tuple[int, int]) -> Meaning:
    """Tell boxes from scores, and what form they have.

    Args:
        outputs: what the network gave for a few images.

    Raises:
        ModelFileError: no two outputs, nor parts of one, are boxes and scores for sure.
    """
    shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in outputs.items())
    usable = {name: value for name, value in outputs.items() if value.ndim == 3 and value.shape[1] > 1}
    if not usable:
        raise ModelFileError(f"{path} gives {shapes:.200}; {EXPECTED}")
    if not all(np.isfinite(value).all() for value in usable.values()):
        raise ModelFileError(f"{path} gives values that are not finite; check its weights, or export it in float32")
    found = []
    for boxes, scores in _candidates(usable):
        form, function = box_form(boxes.of(outputs), size_wh), _score_function(scores.of(outputs))
        concatenated = boxes.output == scores.output
        # One output with boxes of another form, or without softmax, is what a YOLO gives, objectness among its scores.
        if form is None or (concatenated and (form.centre or function != (SOFTMAX, False))):
            continue
        columns = scores.of(outputs).shape[-1]
        found.append(Meaning(boxes, form, size_wh, scores, *function, columns))
    found = _best(found)
    if len(found) == 1:
        return found[0]
    if len(usable) == 1:
        raise ModelFileError(f"{path} seems to be a YOLO or another detector, its only output is {shapes}; {EXPECTED}")
    looks = "; ".join(f"{name} {list(value.shape)} {_looks(value)}" for name, value in usable.items())
    raise ModelFileError(f"{path}: no two outputs are boxes and scores for sure: {looks:.300}; {EXPECTED}")


def _candidates(outputs: Outputs) -> Iterator[tuple[Columns, Columns]]:
    """Pairs of boxes and scores that fit by shape."""
    for boxes, of_boxes in outputs.items():
        if of_boxes.shape[-1] == 4:
            for scores, of_scores in outputs.items():
                if scores != boxes and of_scores.shape[1] == of_boxes.shape[1]:
                    yield Columns(boxes), Columns(scores)
    if len(outputs) == 1:
        ((name, value),) = outputs.items()
        if value.shape[-1] > 5:
            yield Columns(name, 0, 4), Columns(name, 4)
            yield Columns(name, value.shape[-1] - 4), Columns(name, 0, value.shape[-1] - 4)


def _best(found: list[Meaning]) -> list[Meaning]:
    """Those with probabilities, where some have them; of these those with softmax, and then with corners."""
    found = [one for one in found if not one.logits] or found
    found = [one for one in found if one.score_function == SOFTMAX] or found
    return [one for one in found if not one.form.centre] or found


def box_form(values: NDArray[np.float32], size_wh: tuple[int, int]) -> BoxForm | None:
    """The form of boxes [images, anchors, 4]; None where they are none for sure.

    Default boxes lie all over the image, so that the middle of all boxes is about that of the image, and from first to
    last they go along the rows: y changes more slowly than x.
    """
    first, last = values[..., :2], values[..., 2:]
    for centre in (False, True):
        size = last if centre else last - first
        middle = first if centre else (first + last) / 2
        if (size >= -1e-6 * np.abs(values).max()).mean() < ORDERED:
            continue
        median = np.median(middle, axis=(0, 1))  # of x and y, or y and x
        rough = _roughness(middle)
        rows_first = bool(rough[1] > ROUGHER * rough[0])
        for pixels in (False, True):
            sides = np.array(size_wh if pixels else (1, 1))[:: -1 if rows_first else 1]
            share, typical = median / sides, np.median(size, axis=(0, 1)) / sides
            if (share > 0.25).all() and (share < 0.75).all() and (typical < 1.5).all():
                return BoxForm(centre, rows_first, pixels)
    return None


def _roughness(middle: NDArray[np.floating]) -> NDArray[np.float64]:
    """How much each coordinate [images, anchors, 2] differs from that of anchors somewhat further on: [2].

    Along a row x goes on and y does not. Several distances, as one may be the length of a row.
    """
    path = middle.mean(axis=0).astype(np.float64)
    steps = {max(1, len(path) // part) for part in (64, 50, 40)}
    return np.sum([((path[step:] - path[:-step]) ** 2).mean(axis=0) for step in steps], axis=0)


def _score_function(values: NDArray[np.float32]) -> tuple[str, bool]:
    """`softmax` or `sigmoid`, and whether these are logits still, of which softmax is the usual function."""
    if values.min() < 0 or values.max() > 1 + SUM_TOLERANCE:
        return SOFTMAX, True
    sums = values.sum(axis=-1)
    return (SOFTMAX if np.abs(sums - 1).max() <= SUM_TOLERANCE else SIGMOID), False


def _looks(values: NDArray[np.float32]) -> str:
    function, logits = _score_function(values)
    if not logits:
        return "probabilities that sum to 1" if function == SOFTMAX else "values from 0 to 1"
    low, high = float(values.min()), float(values.max())
    undecoded = ", perhaps offsets that are not decoded" if values.shape[-1] == 4 else ""
    return f"values from {low:.3g} to {high:.3g}{undecoded}"
