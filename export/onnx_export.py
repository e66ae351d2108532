"""Checkpoint to ONNX: one self-contained file that obeys the ONNX contract, compared with PyTorch.

The graph is the trace of `Predictor`:

    images  uint8   [batch, height, width, 3]    RGB, already resized; the first op on it is a Cast
    boxes   float32 [batch, anchors, 4]          x0 y0 x1 y1 as fractions of the image
    scores  float32 [batch, anchors, classes]    softmax with the background column dropped

It comes from PyTorch's `torch.export`-based exporter. The TorchScript one gives an equally fast graph, but it
is deprecated, and it derives the batch size anew in front of every reshape (12 Shape-Gather-Concat chains).
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ssd_edge.card import ONNX_METADATA_KEY, file_sha256
from ssd_edge.checkpoint import model_from_checkpoint
from ssd_edge.data.codes.write import CodesScenes
from ssd_edge.data.dataset import DetectionDataset
from ssd_edge.detections import Detections
from ssd_edge.errors import GateFailedError, MissingDependencyError, UsageError
from ssd_edge.export.fp16.convert import emulated_half, half_from_float
from ssd_edge.export.int8.convert import (
    Int8Options,
    Int8Result,
    add_metadata,
    finetuned_checkpoint,
    int8_from_float,
    remove_recovery,
    write_recovery,
)
from ssd_edge.files import atomic_path, check_folder
from ssd_edge.images import load_image
from ssd_edge.models.predict import Predictor
from ssd_edge.runtime.backends.onnxruntime import OnnxDetector
from ssd_edge.runtime.backends.torch import TorchDetector
from ssd_edge.runtime.detector import Detector
from ssd_edge.runtime.preprocess import preprocess

log = logging.getLogger(__name__)

OPSET = 18
IR_VERSION = 8  # the one that came with opset 18, so that runtimes from 2023 on load the file
TORCH_NEEDED = (2, 6)  # the first with torch.onnx.export(dynamo=True, dynamic_shapes=...) as used here
# By precision, of scores, and of boxes as fractions of the image (relative for boxes larger than it). Half's is four
# times the most that was measured: 5e-3, SSD300-VGG16 with random weights. A trained SSDlite320 stays below 2e-3.
PRECISIONS = ("fp32", "fp16", "int8")
TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2}
# int8 is judged by the detections that matter: those above this score must be found again, their score and box (as a
# share of the image) about the same, and most of them, else the calibration had nothing to do with these images.
INT8_SCORE, INT8_TOLERANCE, INT8_FOUND = 0.4, 0.1, 0.5
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
        with TorchDetector(model, card) as reference, _open_exported(part, graph, precision) as exported:
            boxes_difference, scores_difference = _raw_differences(reference, exported, images)
            pairs = list(zip(reference(images), exported(images), strict=True))
        if precision == "int8":
            kept = [_equal_detections(_confident(expected), got, INT8_TOLERANCE) for expected, got in pairs]
            _refuse_other_detections(output, kept)
        else:
            kept = [_equal_detections(expected, got, TOLERANCES[precision]) for expected, got in pairs]
            _refuse_departure(output, boxes_difference, scores_difference, TOLERANCES[precision])
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


def onnx_from_predictor(predictor: Predictor, size_hw: tuple[int, int]) -> onnx.ModelProto:
    """Trace a predictor into an ONNX graph with a dynamic batch dimension.

    Raises:
        MissingDependencyError: PyTorch is too old.
    """
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < TORCH_NEEDED:
        raise MissingDependencyError(
            f"export needs torch {TORCH_NEEDED[0]}.{TORCH_NEEDED[1]} or later, found {torch.__version__}",
            extra="export",
        )
    predictor = copy.deepcopy(predictor)
    _pool_by_mean(predictor)
    example = torch.zeros(2, *size_hw, 3, dtype=torch.uint8)  # a batch of 1 would be taken for a constant
    with _quiet():
        program = torch.onnx.export(
            predictor,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["boxes", "scores"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert program is not None  # it is None only when the exporter writes a file itself
    return _cleaned(program.model_proto)


class _SpatialMean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, rows, columns] -> [batch, channels, 1, 1]."""
        return x.mean(dim=(2, 3), keepdim=True)


def _pool_by_mean(module: nn.Module) -> None:
    """Replace global average pooling, which the exporter turns into gathers, by the mean that it is."""
    for name, child in module.named_children():
        if isinstance(child, nn.AdaptiveAvgPool2d) and child.output_size in (1, (1, 1)):
            setattr(module, name, _SpatialMean())
        else:
            _pool_by_mean(child)


def _cleaned(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The graph without what only its maker needs: stack traces with local paths, graph signatures."""
    holders: list[Any] = [graph, graph.graph, *graph.graph.node, *graph.graph.initializer]
    holders += [*graph.graph.value_info, *graph.graph.input, *graph.graph.output]
    for holder in holders:
        del holder.metadata_props[:]
        holder.doc_string = ""
    graph.ir_version = IR_VERSION
    return graph


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress, warnings and logs from the user; its errors are exceptions."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _images(data: DetectionDataset | None, count: int) -> list[NDArray[np.uint8]]:
    """Images spread evenly over the dataset, uint8 [H, W, 3] BGR each; synthetic scenes where there is none."""
    if data is None:
        scenes = CodesScenes(seed=0)
        return [scenes.scene(index).image_bgr for index in range(count)]
    picks = np.linspace(0, len(data) - 1, min(count, len(data))).round().astype(int)
    return _load([data.records[pick].path for pick in picks])


def _load(paths: Sequence[Path]) -> list[NDArray[np.uint8]]:
    return [load_image(path) for path in paths]


def _raw_differences(
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


def _refuse_departure(output: Path, boxes_difference: float, scores_difference: float, tolerance: float) -> None:
    if not max(boxes_difference, scores_difference) <= tolerance:  # NaN is refused too
        raise GateFailedError(
            f"{output} is not written: its boxes differ by {boxes_difference:.1e} and its scores by "
            f"{scores_difference:.1e} from PyTorch's, more than {tolerance:.0e}; a checkpoint that diverged in "
            "training does this, else please report it"
        )


def _refuse_other_detections(output: Path, kept: Sequence[tuple[int, int]]) -> None:
    total, equal = (sum(part) for part in zip(*kept, strict=True))
    if equal < INT8_FOUND * total:
        raise GateFailedError(
            f"{output} is not written: of {total} objects that PyTorch finds on {len(kept)} images with scores "
            f"above {INT8_SCORE} it finds {equal}; calibrate on images such as the model will see, try another "
            "--method, or give --max-drop, which leaves layers in float until mAP holds"
        )


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
