"""`adopt`: an SSD that another project exported to ONNX, as a file of our ONNX contract.

The file is looked into (`foreign`), brought to float32 and opset 18 (`float32`, `simplify`), run on a few images to
tell what its outputs mean (`meaning`), given a dynamic batch (`batch`) and our input and outputs (`contract`), and
compared with what the original computes on the same images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ssd_edge.card import ONNX_METADATA_KEY, ModelCard, file_sha256
from ssd_edge.errors import GateFailedError, ModelFileError, UsageError, reason
from ssd_edge.export.adopt.batch import with_dynamic_batch
from ssd_edge.export.adopt.contract import under_contract
from ssd_edge.export.adopt.float32 import has_halves, widen
from ssd_edge.export.adopt.foreign import ForeignInput, read_foreign
from ssd_edge.export.adopt.meaning import Meaning, find_meaning
from ssd_edge.export.adopt.original import Original, probe_images
from ssd_edge.export.adopt.said import Classes, Preparation, find_classes, find_preparation
from ssd_edge.export.adopt.simplify import simplified
from ssd_edge.files import atomic_path, check_folder
from ssd_edge.importers.family import Assumption, Facts
from ssd_edge.onnx_graph import add_metadata, own_opset
from ssd_edge.runtime.backends.onnxruntime import OnnxDetector
from ssd_edge.runtime.backends.ort_session import open_session

ARCH = "onnx"  # of the card: a network that is known by its graph alone
# Of the largest magnitude: the same arithmetic in another order, and what half rounds in the original.
FLOAT_TOLERANCE, HALF_TOLERANCE, BATCH_TOLERANCE = 1e-5, 2e-2, 1e-5
# What jetson-inference and the projects that it follows suppress with: 200 boxes per class, IoU .45.
SCORE_THRESHOLD, NMS_IOU, CANDIDATES, MOST_DETECTIONS = 0.01, 0.45, 200, 1000


@dataclass(frozen=True)
class AdoptReport:
    """What was written, and how far it is from the original.

    Attributes:
        boxes_difference, scores_difference: largest over some images, relative to the largest magnitude.
        batch_difference: likewise, of three images at once from the same images one by one.
        assumptions: what the file does not say.
        notes: what was found and changed.
    """

    path: Path
    card: ModelCard
    size_bytes: int
    nodes: int
    opset: int
    images: int
    boxes_difference: float
    scores_difference: float
    batch_difference: float
    assumptions: tuple[Assumption, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        card = self.card
        lines = [
            f"{self.path}: {self.size_bytes / 1e6:.1f} MB, {self.nodes} nodes, opset {self.opset}, "
            f"{card.height}×{card.width}, {len(card.class_names)} classes",
            f"against the original on {self.images} images, relative to the largest value: boxes differ by at most "
            f"{self.boxes_difference:.1e}, scores by {self.scores_difference:.1e}; a batch from single images by "
            f"{self.batch_difference:.1e}",
        ]
        return "\n".join([*lines, *self.notes, *(f"assumed: {assumption}" for assumption in self.assumptions)])


def adopt(path: Path, output: Path, facts: Facts) -> AdoptReport:
    """Write the file of our ONNX contract that computes what another project's ONNX file does.

    Args:
        path: an SSD that gives all boxes, decoded, and all scores, for one image or a batch.
        output: the `.onnx` file; an old one stays until the new one has passed.
        facts: what the user says about the model.

    Raises:
        ModelFileError: no such SSD; the message says what does not fit.
        UsageError: `output` does not end in .onnx; facts that do not fit, or that an ONNX file has no use for.
        GateFailedError: the new file computes something else; nothing is written.
        SinkError: `output` cannot be written.
    """
    _check_request(output, facts)
    file, taken = read_foreign(path, facts.size_hw)
    model = onnx.load(path)
    half = has_halves(model)
    widen(model)
    plain = simplified(model, taken, path, fixed=True)
    preparation = find_preparation(plain, file, taken, facts)
    images = probe_images(taken.height, taken.width)
    outputs = Original(path, taken, preparation).run(images)
    meaning = find_meaning(path, outputs, (taken.width, taken.height))
    classes = find_classes(path, meaning, outputs, facts)
    card = _card(path, taken, preparation, classes, facts)

    def contract(network: onnx.ModelProto) -> onnx.ModelProto:
        anchors = meaning.boxes.of(outputs).shape[1]
        prepared = {"bgr": preparation.bgr, "classes": classes.columns, "anchors": anchors}
        return under_contract(network, taken, meaning, preparation.normalisation, **prepared)

    adopted = _run_in_batches(contract(with_dynamic_batch(plain)), images)
    if adopted.problem and taken.batch is None:  # what depends on the batch is more than shapes: as the file has it
        adopted = _run_in_batches(contract(simplified(model, taken, path, fixed=False)), images)
    if adopted.problem:
        raise ModelFileError(
            f"{path}: its batch of {taken.batch or 1} cannot be made dynamic ({adopted.problem:.200}); export it again "
            "with a dynamic batch (dynamic_axes)"
        )
    boxes, scores = meaning.read(outputs)
    report = AdoptReport(
        path=output,
        card=card,
        size_bytes=0,
        nodes=len(adopted.model.graph.node),
        opset=own_opset(adopted.model),
        images=len(images),
        boxes_difference=_apart(adopted.boxes, boxes),
        scores_difference=_apart(adopted.scores, scores[..., slice(*classes.columns)]),
        batch_difference=adopted.difference,
        assumptions=(*preparation.assumptions, *classes.assumptions),
        notes=_notes(meaning, classes, half=half),
    )
    _check(report, HALF_TOLERANCE if half else FLOAT_TOLERANCE)
    return replace(report, size_bytes=_write(adopted.model, card, output))


def _check_request(output: Path, facts: Facts) -> None:
    if output.suffix != ".onnx":
        raise UsageError(f"output {output}: an ONNX file is adopted into an ONNX file; give -o model.onnx")
    for name in ("default_boxes", "entry"):
        if getattr(facts, name) is not None:
            raise UsageError(f"--{name.replace('_', '-')} is for checkpoints: an ONNX file decodes boxes itself")
    check_folder(output.absolute().parent)


def _card(path: Path, taken: ForeignInput, preparation: Preparation, classes: Classes, facts: Facts) -> ModelCard:
    count = len(classes.names)
    numbers: dict[str, Any] = {
        "score_threshold": SCORE_THRESHOLD,
        "nms_iou": NMS_IOU,
        "candidates": CANDIDATES,
        "detections": min(CANDIDATES * count, MOST_DETECTIONS),
    }
    numbers |= {name: said for name in numbers if (said := getattr(facts, name)) is not None}
    return ModelCard(
        arch=ARCH,
        height=taken.height,
        width=taken.width,
        class_names=classes.names,
        category_ids=tuple(range(1, count + 1)),
        mean=preparation.normalisation.mean,
        std=preparation.normalisation.std,
        parent_sha256=file_sha256(path),
        score_function=classes.score_function,
        clip_before_nms=False,
        **numbers,
    )


@dataclass(frozen=True)
class _Adopted:
    """A model and what it gives for the images.

    Attributes:
        difference: of all images at once from one by one, relative to the largest magnitude.
        problem: why it does not run in batches, empty where it does.
    """

    model: onnx.ModelProto
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    difference: float
    problem: str = ""


def _run_in_batches(model: onnx.ModelProto, images: NDArray[np.uint8]) -> _Adopted:
    nothing = np.zeros(0, np.float32)
    names = ["boxes", "scores"]
    try:
        session = open_session(model.SerializeToString())
        singles = [session.run(names, {"images": image[None]}) for image in images]
        together = session.run(names, {"images": images})
    except Exception as error:  # ONNX Runtime's errors share no base but Exception
        return _Adopted(model, nothing, nothing, np.inf, reason(error))
    boxes, scores = (np.concatenate(part) for part in zip(*singles, strict=True))
    difference = max(_apart(together[0], boxes), _apart(together[1], scores))
    problem = "" if difference <= BATCH_TOLERANCE else f"a batch differs from single images by {difference:.1e}"
    return _Adopted(model, boxes, scores, difference, problem)


def _apart(values: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Largest difference, relative to the largest magnitude; infinite where shapes differ."""
    if values.shape != expected.shape:
        return np.inf
    return float(np.abs(values - expected).max() / max(np.abs(expected).max(), 1e-9))


def _check(report: AdoptReport, tolerance: float) -> None:
    if not max(report.boxes_difference, report.scores_difference) <= tolerance:  # NaN is refused too
        raise GateFailedError(
            f"{report.path} is not written: boxes differ by {report.boxes_difference:.1e} and scores by "
            f"{report.scores_difference:.1e} from the original's, more than {tolerance:.0e}; please report it"
        )


def _notes(meaning: Meaning, classes: Classes, *, half: bool) -> tuple[str, ...]:
    form = meaning.form
    unit, shape = (
        ("pixels" if form.pixels else "fractions of the image"),
        "centre and size" if form.centre else "corners",
    )
    order = ", y before x" if form.rows_first else ""
    function = f"{meaning.score_function} of logits" if meaning.logits else meaning.score_function
    found = (
        f"boxes are {meaning.boxes.output}, {shape} in {unit}{order}; scores are {meaning.scores.output}, {function}"
    )
    return (f"{found}, background {classes.background}", *(["float16 made float32"] if half else []))


def _write(model: onnx.ModelProto, card: ModelCard, output: Path) -> int:
    """Write the file, and open it as every command will; returns its size in bytes."""
    add_metadata(model, {ONNX_METADATA_KEY: card.to_json()})
    onnx.checker.check_model(model, full_check=True)
    with atomic_path(output) as part:
        part.write_bytes(model.SerializeToString())
        OnnxDetector(part).close()
        return part.stat().st_size
