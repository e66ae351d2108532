"""How far an exported file is from its source, how far it may be, and the refusal of what is further."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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

# By precision, of scores, and of boxes as fractions of the image (relative for boxes larger than it). Half's is four
# times the most that was measured: 5e-3, SSD300-VGG16 with random weights. A trained SSDlite320 stays below 2e-3.
TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2}
# int8 is judged by the detections that matter: those above this score must be found again, their score and box (as a
# share of the image) about the same, and most of them, else the calibration had nothing to do with these images.
INT8_SCORE, INT8_TOLERANCE, INT8_FOUND = 0.4, 0.1, 0.5


@dataclass(frozen=True)
class Comparison:
    """How far a file is from its source, PyTorch or an fp32 file, on some images.

    Attributes:
        precision: of the file.
        images: how many.
        boxes_difference: largest over all anchors, as a fraction of the image (relative above 1).
        scores_difference: largest over all anchors and classes.
        detections: what the source detects on the images; for int8 with scores above `INT8_SCORE` alone.
        detections_equal: how many of them the file detects too, within the tolerance. The rest sit on the
            edge of a threshold, where the last bit decides.
    """

    precision: str
    images: int
    boxes_difference: float
    scores_difference: float
    detections: int
    detections_equal: int

    def __str__(self) -> str:
        rest = "" if self.detections_equal == self.detections else ", the others tie or sit on a threshold"
        equal = f"{self.detections_equal} of {self.detections} detections equal{rest}"
        if self.precision == "int8":
            equal = (
                f"{self.detections_equal} of {self.detections} detections with scores above {INT8_SCORE} found again "
                f"(within {INT8_TOLERANCE} of the score and of the image's size)"
            )
        return (
            f"against the source on {self.images} images: boxes differ by at most {self.boxes_difference:.1e}, "
            f"scores by {self.scores_difference:.1e}; {equal}"
        )

    def check(self, output: Path) -> None:
        """Do nothing when the file is near enough.

        Args:
            output: the file's final name, for the message.

        Raises:
            GateFailedError: it departs by more than its precision allows; of int8, it misses too many detections.
        """
        if self.precision == "int8":
            self._check_detections(output)
            return
        tolerance = TOLERANCES[self.precision]
        if not (self.boxes_difference <= tolerance and self.scores_difference <= tolerance):  # NaN is refused too
            raise GateFailedError(
                f"{output} is not written: its boxes differ by {self.boxes_difference:.1e} and its scores by "
                f"{self.scores_difference:.1e} from its source's, more than {tolerance:.0e}; a "
                "checkpoint that diverged in training does this, else please report it"
            )

    def _check_detections(self, output: Path) -> None:
        if self.detections_equal < INT8_FOUND * self.detections:
            raise GateFailedError(
                f"{output} is not written: of {self.detections} objects that its source finds on {self.images} images "
                f"with scores above {INT8_SCORE} it finds {self.detections_equal}; calibrate on images such as the "
                "model will see, try another --method, or give --max-drop, which leaves layers in float until mAP holds"
            )


def compare(
    reference: Detector, path: Path, graph: onnx.ModelProto, images: Sequence[NDArray[np.uint8]], precision: str
) -> Comparison:
    """Run a file and its source on the same images.

    Half precision is compared as a GPU computes it, each activation rounded; ONNX Runtime on the CPU does not round.

    Args:
        reference: what the file was made from: PyTorch, or an fp32 ONNX file.
        path: the file.
        graph: what it holds.
        images: uint8 [height, width, 3] BGR each.
        precision: of the file.
    """
    with _open_exported(path, graph, precision) as exported:
        boxes_difference, scores_difference = _raw_differences(reference, exported, images)
        pairs = list(zip(reference(images), exported(images), strict=True))
    if precision == "int8":
        counts = [_equal_detections(_confident(expected), got, INT8_TOLERANCE) for expected, got in pairs]
    else:
        counts = [_equal_detections(expected, got, TOLERANCES[precision]) for expected, got in pairs]
    detections, equal = (sum(part) for part in zip(*counts, strict=True))
    return Comparison(precision, len(images), boxes_difference, scores_difference, detections, equal)


@contextlib.contextmanager
def _open_exported(path: Path, graph: onnx.ModelProto, precision: str) -> Iterator[Detector]:
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


def _raw_differences(
    reference: Detector, exported: Detector, images: Sequence[NDArray[np.uint8]]
) -> tuple[float, float]:
    """Largest difference of boxes and of scores, over a single image and all of them in one batch; NaN if any is."""
    size_hw = (reference.card.height, reference.card.width)
    batch = np.stack([preprocess(image, size_hw) for image in images])  # [batch, height, width, 3]
    differences = []
    for part in (batch[:1], np.concatenate([batch, batch[:1]])):  # two at least, where one was given
        boxes, scores = reference.infer(part)
        exported_boxes, exported_scores = exported.infer(part)
        apart = np.abs(exported_boxes - boxes) / np.maximum(1, np.abs(boxes))
        differences.append((apart.max(), np.abs(exported_scores - scores).max()))
    boxes_difference, scores_difference = np.max(differences, axis=0)
    return float(boxes_difference), float(scores_difference)


def _confident(found: Detections) -> Detections:
    keep = found.scores > INT8_SCORE
    return Detections(found.boxes_xyxy[keep], found.scores[keep], found.labels[keep])


def _equal_detections(reference: Detections, exported: Detections, tolerance: float) -> tuple[int, int]:
    """How many detections the reference has, and how many of them the exported model gives too."""
    same_label = reference.labels[:, None] == exported.labels  # [reference, exported]
    same_score = np.abs(reference.scores[:, None] - exported.scores) <= tolerance
    extent = max(1.0, float(reference.boxes_xyxy.max(initial=0)))  # boxes are in pixels here
    apart = np.abs(reference.boxes_xyxy[:, None] - exported.boxes_xyxy).max(axis=2)
    equal = (same_label & same_score & (apart <= tolerance * extent)).any(axis=1)
    return len(reference), int(equal.sum())
