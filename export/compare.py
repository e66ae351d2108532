"""How far an exported file may be from PyTorch, and the refusal of what is further."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from ssd_edge.detections import Detections
from ssd_edge.errors import GateFailedError
from ssd_edge.export.fp16.emulate import emulated_half
from ssd_edge.runtime.backends.base import Detector
from ssd_edge.runtime.backends.onnxruntime import OnnxDetector
from ssd_edge.runtime.preprocess import preprocess

TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2}
# int8 is judged by the detections that matter: those above this score must be found again, their score and box (as a
# share of the image) about the same, and most of them, else the calibration had nothing to do with these images.
INT8_SCORE, INT8_TOLERANCE, INT8_FOUND = 0.4, 0.1, 0.5


@contextlib.contextmanager
def open_exported(path: Path, graph: onnx.ModelProto, precision: str) -> Iterator[Detector]:
    """A detector that computes as the file does on the device it is for; the file itself is run once at least."""
    with OnnxDetector(path) as itself:
        if precision != "fp16":
            yield itself
            return
    with tempfile.TemporaryDirectory() as folder:
        emulated = Path(folder) / path.with_suffix(".onnx").name
        emulated.write_bytes(emulated_half(graph).SerializeToString())
        with OnnxDetector(emulated) as detector:
            yield detector


def raw_differences(
    reference: Detector, exported: Detector, images: Sequence[NDArray[np.uint8]]
) -> tuple[float, float]:
    """Largest difference of boxes and of scores: over a single image, and over all of them in one batch."""
    size_hw = (reference.card.height, reference.card.width)
    batch = np.stack([preprocess(image, size_hw) for image in images])  # [batch, height, width, 3]
    boxes_difference = scores_difference = 0.0
    for part in (batch[:1], np.concatenate([batch, batch[:1]])):  # two at least, where one was given
        boxes, scores = reference.infer(part)
        exported_boxes, exported_scores = exported.infer(part)
        apart = np.abs(exported_boxes - boxes) / np.maximum(1, np.abs(boxes))
        boxes_difference = max(boxes_difference, float(apart.max()))
        scores_difference = max(scores_difference, float(np.abs(exported_scores - scores).max()))
    return boxes_difference, scores_difference


def refuse_departure(output: Path, boxes_difference: float, scores_difference: float, tolerance: float) -> None:
    if not max(boxes_difference, scores_difference) <= tolerance:  # NaN is refused too
        raise GateFailedError(
            f"{output} is not written: its boxes differ by {boxes_difference:.1e} and its scores by "
            f"{scores_difference:.1e} from PyTorch's, more than {tolerance:.0e}; a checkpoint that diverged in "
            "training does this, else please report it"
        )


def refuse_other_detections(output: Path, kept: Sequence[tuple[int, int]]) -> None:
    total, equal = (sum(part) for part in zip(*kept, strict=True))
    if equal < INT8_FOUND * total:
        raise GateFailedError(
            f"{output} is not written: of {total} objects that PyTorch finds on {len(kept)} images with scores "
            f"above {INT8_SCORE} it finds {equal}; calibrate on images such as the model will see, try another "
            "--method, or give --max-drop, which leaves layers in float until mAP holds"
        )


def confident(found: Detections) -> Detections:
    keep = found.scores > INT8_SCORE
    return Detections(found.boxes_xyxy[keep], found.scores[keep], found.labels[keep])


def equal_detections(reference: Detections, exported: Detections, tolerance: float) -> tuple[int, int]:
    """How many detections the reference has, and how many of them the exported model gives too."""
    same_label = reference.labels[:, None] == exported.labels  # [reference, exported]
    same_score = np.abs(reference.scores[:, None] - exported.scores) <= tolerance
    extent = max(1.0, float(reference.boxes_xyxy.max(initial=0)))  # boxes are in pixels here
    apart = np.abs(reference.boxes_xyxy[:, None] - exported.boxes_xyxy).max(axis=2)
    equal = (same_label & same_score & (apart <= tolerance * extent)).any(axis=1)
    return len(reference), int(equal.sum())
