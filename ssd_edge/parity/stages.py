"""Two models compared stage by stage, and the first stage at which they part."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssd_edge.box_coding import BoxCoding
from ssd_edge.card import ModelCard
from ssd_edge.detections import Detections
from ssd_edge.parity.compare_cards import CardDifference, card_differences
from ssd_edge.parity.compare_detections import DetectionsDifference, ImagePairs, RunningDetections, pair_detections
from ssd_edge.parity.decoding import decode, default_boxes_of, scores_of
from ssd_edge.parity.difference import Difference, RunningDifference
from ssd_edge.parity.taps import RawTensors
from ssd_edge.parity.tolerances import DECODING, TENSORS, Tolerance, tolerance_of

WORST = 8  # images that are remembered
UNITS = {"logits": "", "offsets": "variances", "boxes": "pixels", "scores": ""}
HEAD_OF = {"boxes": "offsets", "scores": "logits"}


@dataclass(frozen=True)
class Stage:
    """One stage of a comparison.

    Attributes:
        name: card, logits, offsets, boxes, scores, detections or mAP.
        departs: whether it is out of bounds; None where it could not be compared.
        found: what was found, or why nothing was, as text.
        allowed: the bound, as text.
        difference: of a tensor: offsets in variances, boxes in pixels of the model's input.
        redecoded: of boxes and scores: largest difference from those that the model's own offsets and logits decode
            into as the reference decodes, as `Difference.max_scaled`; None where that is not known.
    """

    name: str
    departs: bool | None
    found: str
    allowed: str
    difference: Difference | None = None
    redecoded: float | None = None


@dataclass(frozen=True, eq=False)
class WorstImage:
    """An image on which the detections differ most.

    Attributes:
        index: into `DetectionDataset.records`.
        path: the image file.
        pairs: both models' detections above the score.
    """

    index: int
    path: Path
    pairs: ImagePairs

    @property
    def differs(self) -> bool:
        """Whether a detection above the score is missed, extra or shifted."""
        return bool(self.pairs.missed.any() or self.pairs.extra.any() or self.pairs.shifted_reference.any())

    @property
    def counts(self) -> str:
        """How many detections are missed, extra and shifted, as text."""
        missed, extra = int(self.pairs.missed.sum()), int(self.pairs.extra.sum())
        return f"{missed} missed, {extra} extra, {int(self.pairs.shifted_reference.sum())} shifted"


@dataclass(frozen=True, eq=False)
class StagedComparison:
    """A model against the reference.

    Attributes:
        stages: in the order in which a frame goes through them.
        first: the first that departs, or None.
        conclusion: that in one sentence, with the likely cause.
        worst: the images on which detections differ most, the worst first.
    """

    tolerance: Tolerance
    card: tuple[CardDifference, ...]
    stages: tuple[Stage, ...]
    detections: DetectionsDifference
    first: Stage | None
    conclusion: str
    worst: tuple[WorstImage, ...]


class RunningComparison:
    """Compares image by image; its memory does not grow with their number.

    Args:
        score: operating threshold of the detections that are counted.
    """

    def __init__(self, reference: ModelCard, model: ModelCard, *, score: float) -> None:
        self._card = card_differences(reference, model)
        self._coding = BoxCoding.from_dict(reference.box_coding)  # what the model should do
        self._score_function = reference.score_function
        self._tolerance = tolerance_of(reference.precision, model.precision)
        self._score = score
        sides = (model.width, model.height)
        self._sides = np.array(sides * 2, np.float32)  # fractions -> pixels of the model's input
        units = {"logits": 1.0, "offsets": 1.0, "boxes": float(max(sides)), "scores": 1.0}
        self._differences = {name: RunningDifference(unit) for name, unit in units.items()}
        self._redecoded = {name: RunningDifference(1.0) for name in HEAD_OF}
        self._unavailable: dict[str, str] = {}
        self._default_boxes: NDArray[np.float64] | None = None
        self._detections = RunningDetections(score)
        self._worst: list[tuple[float, float, WorstImage]] = []

    def update(
        self,
        index: int,
        path: Path,
        reference: tuple[RawTensors, Detections],
        model: tuple[RawTensors, Detections],
    ) -> None:
        """Add one image: what `TappedDetector.detect` gave for it."""
        apart = self._compare_tensors(reference[0], model[0])
        self._redecode(reference[0], model[0])
        pairs = pair_detections(reference[1], model[1], score=self._score, edge=self._tolerance.edge)
        self._detections.update(pairs)
        self._worst.append((-pairs.badness, -apart, WorstImage(index, path, pairs)))
        self._worst = sorted(self._worst, key=lambda entry: entry[:2])[:WORST]

    def result(self, *, ap: float, reference_ap: float, floor: float) -> StagedComparison:
        """The comparison so far, with the mAP that was measured on the same images."""
        counts = self._detections.result()
        stages = (
            self._card_stage(),
            *(self._tensor_stage(name) for name in TENSORS),
            _detections_stage(counts, self._tolerance),
            Stage("mAP", not ap >= floor, f"AP {ap:.4f}, the reference's {reference_ap:.4f}", f"≥ {floor:.4f}"),
        )
        first = next((stage for stage in stages if stage.departs), None)
        return StagedComparison(
            tolerance=self._tolerance,
            card=self._card,
            stages=stages,
            detections=counts,
            first=first,
            conclusion=_conclusion(first, stages, self._card),
            worst=tuple(image for _, _, image in self._worst),
        )

    def _compare_tensors(self, reference: RawTensors, model: RawTensors) -> float:
        """Add all that both have; returns the largest difference of scores, for the order of equally bad images."""
        if reference.boxes.shape != model.boxes.shape:
            theirs, ours = reference.boxes.shape[1], model.boxes.shape[1]
            self._unavailable = dict.fromkeys(TENSORS, f"{ours} anchors, the reference {theirs}: not comparable")
            return 0.0
        for name in TENSORS:
            a, b = getattr(reference, name), getattr(model, name)
            if a is None or b is None:
                self._unavailable[name] = f"not available from the {'model' if b is None else 'reference'}"
                continue
            scale = self._sides if name == "boxes" else np.float32(1)
            self._differences[name].update(a * scale, b * scale)
        return float(np.nan_to_num(np.abs(reference.scores - model.scores), nan=np.inf).max(initial=0))

    def _redecode(self, reference: RawTensors, model: RawTensors) -> None:
        if model.logits is not None:
            self._redecoded["scores"].update(scores_of(model.logits, self._score_function), model.scores)
        if reference.offsets is None or model.offsets is None or reference.offsets.shape != model.offsets.shape:
            return
        if self._default_boxes is None:
            self._default_boxes = default_boxes_of(reference.boxes[0], reference.offsets[0], self._coding)
        decoded = decode(model.offsets[0], self._default_boxes, self._coding)
        self._redecoded["boxes"].update(decoded[None], model.boxes)

    def _card_stage(self) -> Stage:
        found = "; ".join(map(str, self._card)) or "the same"
        return Stage("card", bool(self._card), found, "the same")

    def _tensor_stage(self, name: str) -> Stage:
        if name in self._unavailable:
            return Stage(name, None, self._unavailable[name], "")
        difference = self._differences[name].result()
        departs = self._tolerance.departs(name, difference)
        redecoded = None
        if name in HEAD_OF:
            again = self._redecoded[name].result()
            redecoded = again.max_scaled if again.values else None
            departs |= redecoded is not None and not redecoded <= DECODING
        found = f"{difference.non_finite} of {difference.values} values are not finite" if difference.non_finite else ""
        return Stage(name, departs, found, self._tolerance.allowed(name), difference, redecoded)


def _detections_stage(counts: DetectionsDifference, tolerance: Tolerance) -> Stage:
    found = (
        f"of {counts.reference} above {counts.score:g}: {counts.missed} missed, {counts.extra} extra, "
        f"{counts.shifted} shifted; {counts.edge} of these on the edge"
    )
    allowed = f"≤ {100 * tolerance.detections:g}%"
    return Stage("detections", counts.different > tolerance.detections * counts.reference, found, allowed)


def _conclusion(first: Stage | None, stages: tuple[Stage, ...], card: tuple[CardDifference, ...]) -> str:
    if first is None:
        unseen = [stage.name for stage in stages if stage.departs is None]
        return "no stage departs" + (f"; {', '.join(unseen)} could not be compared" if unseen else "")
    return f"first stage that departs: {first.name} ({_cause(first, stages, card)})"


def _cause(first: Stage, stages: tuple[Stage, ...], card: tuple[CardDifference, ...]) -> str:
    """What most likely makes this stage the first to depart."""
    if first.name == "card":
        causes = "; ".join(dict.fromkeys(difference.cause for difference in card))
        return f"{first.found}: {causes}; export the file again"
    if first.difference is not None and first.difference.non_finite:
        return "values that are not finite: an overflow, as of float16 above 65504, or a model that diverged"
    by_name = {stage.name: stage for stage in stages}
    if first.name in HEAD_OF:
        return _decoding_cause(first, by_name)
    if first.name in ("logits", "offsets"):
        alone = by_name["offsets"].departs is not True or by_name["logits"].departs is not True
        part = "the network's " + ("class" if first.name == "logits" else "box") + " head" if alone else "the network"
        return f"graph: {part}, before any decoding; normalisation, weights, or a layer that loses precision"
    if first.name == "detections":
        return (
            "NMS: boxes and scores are within bounds, but too many detections cross the score threshold or the IoU of "
            "the suppression"
        )
    return "every stage before it is within bounds, but their small differences add up"


def _decoding_cause(first: Stage, by_name: dict[str, Stage]) -> str:
    head = HEAD_OF[first.name]
    if first.redecoded is not None and not first.redecoded <= DECODING:
        what = (
            "default boxes, variances, order of x and y" if first.name == "boxes" else "axis of the softmax, background"
        )
        return (
            f"decode: {first.name} are not what the model's own {head} decode into; {what}, or no float32 in decoding"
        )
    if by_name[head].departs is None:
        return f"graph or decode: {head} cannot be compared, so it may be the network or the decoding of {head}"
    return f"decode: differences of {head} that are within bounds grow in decoding"
