"""Checkpoint to ONNX: one self-contained file that obeys the ONNX contract, compared with PyTorch.

The graph is the trace of `Predictor`:

    images  uint8   [batch, height, width, 3]    RGB, already resized; the first op on it is a Cast
    boxes   float32 [batch, anchors, 4]          x0 y0 x1 y1 as fractions of the image
    scores  float32 [batch, anchors, classes]    softmax with the background column dropped

It comes from PyTorch's `torch.export`-based exporter. The TorchScript one gives an equally fast graph, but it
is deprecated, and it derives the batch size anew in front of every reshape (12 Shape-Gather-Concat chains).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from ssd_edge.calib.recovery_report import remove_recovery, write_recovery
from ssd_edge.card import ONNX_METADATA_KEY, file_sha256
from ssd_edge.checkpoint import model_from_checkpoint
from ssd_edge.choices import PRECISIONS
from ssd_edge.data.codes.write import CodesScenes
from ssd_edge.data.dataset import DetectionDataset
from ssd_edge.errors import UsageError
from ssd_edge.export.compare import (
    INT8_SCORE,
    INT8_TOLERANCE,
    TOLERANCES,
    confident,
    equal_detections,
    open_exported,
    raw_differences,
    refuse_departure,
    refuse_other_detections,
)
from ssd_edge.export.fp16.convert import half_from_float
from ssd_edge.export.int8.convert import Int8Result, add_metadata, finetuned_checkpoint, int8_from_float
from ssd_edge.export.int8.options import Int8Options
from ssd_edge.export.trace import OPSET, onnx_from_predictor
from ssd_edge.files import atomic_path, check_folder
from ssd_edge.images import load_image
from ssd_edge.models.predict import Predictor
from ssd_edge.picks import spread_evenly
from ssd_edge.runtime.backends.torch import TorchDetector
from ssd_edge.runtime.preprocess import preprocess

log = logging.getLogger(__name__)


# By precision, of scores, and of boxes as fractions of the image (relative for boxes larger than it). Half's is four
# times the most that was measured: 5e-3, SSD300-VGG16 with random weights. A trained SSDlite320 stays below 2e-3.
COMPARED_IMAGES = 8
OVERFLOW_IMAGES = 64  # of fp16, that activations beyond half are looked for on


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how far it is from PyTorch on the compared images.

    Attributes:
        boxes_difference: largest over all anchors, as a fraction of the image (relative above 1).
        scores_difference: largest over all anchors and classes.
        detections: what PyTorch detects on the images.
        detections_equal: how many of them the file detects too, within the tolerance. The rest sit on the
            edge of a threshold, where the last bit decides.
        notes: what was decided on the way.
    """

    path: Path
    size_bytes: int
    nodes: int
    images: int
    boxes_difference: float
    scores_difference: float
    detections: int
    detections_equal: int
    opset: int = OPSET
    precision: str = "fp32"
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        rest = "" if self.detections_equal == self.detections else ", the others tie or sit on a threshold"
        equal = f"{self.detections_equal} of {self.detections} detections equal{rest}"
        if self.precision == "int8":
            equal = (
                f"{self.detections_equal} of {self.detections} detections with scores above {INT8_SCORE} found again "
                f"(within {INT8_TOLERANCE} of the score and of the image's size)"
            )
        return (
            f"{self.path}: {self.size_bytes / 1e6:.1f} MB, {self.nodes} nodes, opset {self.opset}, {self.precision}\n"
            f"against PyTorch on {self.images} images: boxes differ by at most {self.boxes_difference:.1e}, "
            f"scores by {self.scores_difference:.1e}; "
            f"{equal}" + "".join(f"\n{note}" for note in self.notes)
        )


def export_onnx(
    checkpoint: Path,
    output: Path,
    *,
    precision: str = "fp32",
    data: DetectionDataset | None = None,
    int8: Int8Options | None = None,
) -> ExportReport:
    """Write the ONNX file of a checkpoint, after comparing it with PyTorch.

    Half precision is compared as a GPU computes it, each activation rounded; ONNX Runtime on the CPU does not round.

    Args:
        checkpoint: a `.pt` or `.safetensors` file of ssd-edge.
        output: the `.onnx` file; an old one stays until the new one has passed.
        precision: `fp32`, `fp16` or `int8`.
        data: images to compare on, up to `COMPARED_IMAGES`, and to look for overflow on, up to `OVERFLOW_IMAGES`;
            synthetic scenes of codes when None (with int8: the calibration images).
        int8: how to make int8; needed for that alone. Beside the output it may leave `.recovery.json` and `.png`, and
            the fine-tuned checkpoint `.qat.pt`.

    Raises:
        ModelFileError: no such checkpoint, or not one.
        UsageError: `output` does not end in .onnx; no such precision; int8 without its options.
        GateFailedError: the outputs depart from PyTorch's by more than the precision's tolerance, or an activation is
            not finite; nothing is written.
        SinkError: `output` cannot be written.
        MissingDependencyError: PyTorch is too old.
    """
    if output.suffix != ".onnx":
        raise UsageError(f"output {output} does not end in .onnx, by which other commands know the format")
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}; expected {', '.join(PRECISIONS)}")
    if (precision == "int8") != (int8 is not None):
        raise UsageError("int8 needs images to calibrate on, and only int8 does; give --precision int8 --calib DATA")
    for file in (output, int8.table if int8 else None):
        if file is not None:
            check_folder(file.absolute().parent)  # before the long work
    model, card = model_from_checkpoint(checkpoint)
    images = _images(data, COMPARED_IMAGES) if data or not int8 else _load(int8.images.paths[:COMPARED_IMAGES])
    card = replace(card, precision=precision, parent_sha256=file_sha256(checkpoint))
    graph = onnx_from_predictor(Predictor(model).eval(), size_hw=(card.height, card.width))
    notes: tuple[str, ...] = ()
    if precision == "fp16":
        count = OVERFLOW_IMAGES if data else COMPARED_IMAGES  # scenes tell little of the user's images, and take time
        graph, notes = _half(graph, _images(data, count), size_hw=(card.height, card.width))
    if int8 is not None:
        result = int8_from_float(graph, card, int8)
        if result.recovery is not None:
            write_recovery(output, result.recovery, title=f"{card.arch}, int8 for {int8.target}")
        if result.wants_finetuning and int8.qat is not None:
            tuned = _export_finetuned(checkpoint, output, graph, int8, result, data)
            if tuned is not None:
                return tuned
        result.check()
        graph, notes = result.model, result.notes
    add_metadata(graph, {ONNX_METADATA_KEY: card.to_json()})
    onnx.checker.check_model(graph, full_check=True)
    with atomic_path(output) as part:
        part.write_bytes(graph.SerializeToString())
        with TorchDetector(model, card) as reference, open_exported(part, graph, precision) as exported:
            boxes_difference, scores_difference = raw_differences(reference, exported, images)
            pairs = list(zip(reference(images), exported(images), strict=True))
        if precision == "int8":
            kept = [equal_detections(confident(expected), got, INT8_TOLERANCE) for expected, got in pairs]
            refuse_other_detections(output, kept)
        else:
            kept = [equal_detections(expected, got, TOLERANCES[precision]) for expected, got in pairs]
            refuse_departure(output, boxes_difference, scores_difference, TOLERANCES[precision])
    if int8 is None or result.recovery is None:
        remove_recovery(output)
    return ExportReport(
        path=output,
        size_bytes=output.stat().st_size,
        nodes=len(graph.graph.node),
        images=len(images),
        boxes_difference=boxes_difference,
        scores_difference=scores_difference,
        detections=sum(total for total, _ in kept),
        detections_equal=sum(equal for _, equal in kept),
        opset=graph.opset_import[0].version,
        precision=precision,
        notes=notes,
    )


def _half(
    graph: onnx.ModelProto, images: Sequence[NDArray[np.uint8]], size_hw: tuple[int, int]
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    half, report = half_from_float(graph, [preprocess(image, size_hw) for image in images])
    return half, tuple(str(report).splitlines())


def _export_finetuned(
    checkpoint: Path,
    output: Path,
    graph: onnx.ModelProto,
    int8: Int8Options,
    result: Int8Result,
    data: DetectionDataset | None,
) -> ExportReport | None:
    """Export again, from a checkpoint fine-tuned under the rounding of int8; the bound stays that of the first one.

    None where that does not hold the bound either, or costs no less: the first result is the better one then.
    """
    assert result.recovery is not None
    tuned = finetuned_checkpoint(checkpoint, output.with_suffix(".qat.pt"), graph, int8)
    again = replace(int8, qat=None, table=None, reference_ap=result.recovery.reference_ap)
    model, card = model_from_checkpoint(tuned)
    tuned_graph = onnx_from_predictor(Predictor(model).eval(), size_hw=(card.height, card.width))
    recovery = int8_from_float(tuned_graph, card, again).recovery
    assert recovery is not None
    first = result.recovery
    if not recovery.enough or (first.enough and recovery.cost_ratio >= first.cost_ratio):
        log.warning("fine-tuning did not help (%s); what giving layers back found is kept", recovery)
        return None
    report = export_onnx(tuned, output, precision="int8", data=data, int8=again)
    return replace(report, notes=(f"fine-tuned under int8 rounding: {tuned}", *report.notes))


def _images(data: DetectionDataset | None, count: int) -> list[NDArray[np.uint8]]:
    """Images spread evenly over the dataset, uint8 [H, W, 3] BGR each; synthetic scenes where there is none."""
    if data is None:
        scenes = CodesScenes(seed=0)
        return [scenes.scene(index).image_bgr for index in range(count)]
    return _load([record.path for record in spread_evenly(data.records, count)])


def _load(paths: Sequence[Path]) -> list[NDArray[np.uint8]]:
    return [load_image(path) for path in paths]
