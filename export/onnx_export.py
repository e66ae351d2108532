"""Checkpoint or fp32 file to ONNX: one self-contained file that obeys the ONNX contract, compared with its source.

The graph of a checkpoint is traced (`ssd_edge.export.trace`), brought into its precision (`ssd_edge.export.fp16`,
`ssd_edge.export.int8`), compared with its source (`ssd_edge.export.compare`) and written, each once; int8 alone may
trace a second checkpoint, one that it has fine-tuned.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from ssd_edge.calib.recovery import Recovery
from ssd_edge.calib.recovery_report import remove_recovery, write_recovery
from ssd_edge.card import ONNX_METADATA_KEY
from ssd_edge.choices import PRECISIONS
from ssd_edge.data.codes.scenes import CodesScenes
from ssd_edge.data.dataset import DetectionDataset
from ssd_edge.errors import UsageError
from ssd_edge.export.compare import Comparison, compare
from ssd_edge.export.fp16.convert import half_from_float
from ssd_edge.export.int8.convert import Int8Result, int8_from_float
from ssd_edge.export.int8.finetune import finetuned_checkpoint
from ssd_edge.export.int8.options import Int8Options
from ssd_edge.export.trace import Source
from ssd_edge.files import atomic_path, check_folder
from ssd_edge.images import load_image
from ssd_edge.onnx_graph import add_metadata
from ssd_edge.picks import spread_evenly
from ssd_edge.runtime.preprocess import preprocess

logger = logging.getLogger(__name__)

COMPARED_IMAGES = 8
OVERFLOW_IMAGES = 64  # of fp16, that activations beyond half are looked for on


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how far it is from its source on the compared images.

    Attributes:
        notes: what was decided on the way.
    """

    path: Path
    size_bytes: int
    nodes: int
    opset: int
    precision: str
    comparison: Comparison
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        written = f"{self.path}: {self.size_bytes / 1e6:.1f} MB, {self.nodes} nodes, opset {self.opset}"
        return "\n".join([f"{written}, {self.precision}", str(self.comparison), *self.notes])


def export_onnx(
    checkpoint: Path,
    output: Path,
    *,
    precision: str = "fp32",
    data: DetectionDataset | None = None,
    int8: Int8Options | None = None,
) -> ExportReport:
    """Write the ONNX file of a checkpoint or of an fp32 file, after comparing it with that.

    Args:
        checkpoint: a `.pt` or `.safetensors` file of ssd-edge; for fp16 and int8 also an fp32 `.onnx` file, such as one
            that was imported.
        output: the `.onnx` file; an old one stays until the new one has passed.
        precision: `fp32`, `fp16` or `int8`.
        data: images to compare on, up to `COMPARED_IMAGES`, and to look for overflow on, up to `OVERFLOW_IMAGES`;
            synthetic scenes of codes when None (with int8: the calibration images).
        int8: how to make int8; needed for that alone. Beside the output it may leave `.recovery.json` and `.png`, and
            the fine-tuned checkpoint `.qat.pt`.

    Raises:
        ModelFileError: no such checkpoint, or not one.
        UsageError: `output` does not end in .onnx; no such precision; int8 without its options; what an ONNX file
            cannot be exported to: fp32, or fine-tuned int8.
        GateFailedError: the outputs depart from the source's by more than the precision allows, or an activation is not
            finite; nothing is written.
        SinkError: `output` cannot be written.
        MissingDependencyError: PyTorch is too old.
    """
    _check_request(output, precision, int8)
    source = Source.read(checkpoint, precision)
    if source.model is None and int8 is not None and int8.qat is not None:
        raise UsageError(f"--qat fine-tunes a checkpoint, which {checkpoint} is not; leave it out")
    images = _images(data, COMPARED_IMAGES) if data or not int8 else _load(int8.images.paths[:COMPARED_IMAGES])
    built = _build(source, output, data, int8)
    comparison = _write(output, built, images)
    if built.recovery is None:
        remove_recovery(output)
    return ExportReport(
        path=output,
        size_bytes=output.stat().st_size,
        nodes=len(built.graph.graph.node),
        opset=built.graph.opset_import[0].version,
        precision=precision,
        comparison=comparison,
        notes=built.notes,
    )


def _check_request(output: Path, precision: str, int8: Int8Options | None) -> None:
    """Refuse what cannot be, before the long work."""
    if output.suffix != ".onnx":
        raise UsageError(f"output {output} does not end in .onnx, by which other commands know the format")
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}; expected {', '.join(PRECISIONS)}")
    if (precision == "int8") != (int8 is not None):
        raise UsageError("int8 needs images to calibrate on, and only int8 does; give --precision int8 --calib DATA")
    for file in (output, int8.table if int8 else None):
        if file is not None:
            check_folder(file.absolute().parent)


def _images(data: DetectionDataset | None, count: int) -> list[NDArray[np.uint8]]:
    """Images spread evenly over the dataset, uint8 [H, W, 3] BGR each; synthetic scenes where there is none."""
    if data is None:
        scenes = CodesScenes(seed=0)
        return [scenes.scene(index).image_bgr for index in range(count)]
    return _load([record.path for record in spread_evenly(data.records, count)])


def _load(paths: Sequence[Path]) -> list[NDArray[np.uint8]]:
    return [load_image(path) for path in paths]


@dataclass(frozen=True)
class _Built:
    """A graph in its precision, with what it was traced from: of int8 that may be a fine-tuned checkpoint."""

    source: Source
    graph: onnx.ModelProto
    notes: tuple[str, ...] = ()
    recovery: Recovery | None = None


def _build(source: Source, output: Path, data: DetectionDataset | None, int8: Int8Options | None) -> _Built:
    if int8 is not None:
        return _build_int8(source, output, int8)
    graph = source.trace()
    if source.card.precision == "fp32":
        return _Built(source, graph)
    count = OVERFLOW_IMAGES if data else COMPARED_IMAGES  # scenes tell little of the user's images, and take time
    half, report = half_from_float(graph, [preprocess(image, source.size_hw) for image in _images(data, count)])
    return _Built(source, half, tuple(str(report).splitlines()))


def _build_int8(source: Source, output: Path, options: Int8Options) -> _Built:
    result = int8_from_float(source.trace(), source.card, options)
    _write_curve(output, source, result, options)
    if result.wants_finetuning and options.qat is not None:
        source, result = _finetuned(source, result, output, options)
        _write_curve(output, source, result, options)
    result.check()
    return _Built(source, result.model, result.notes, result.recovery)


def _write_curve(output: Path, source: Source, result: Int8Result, options: Int8Options) -> None:
    if result.recovery is not None:
        write_recovery(output, result.recovery, title=f"{source.card.arch}, int8 for {options.target}")


def _finetuned(source: Source, first: Int8Result, output: Path, options: Int8Options) -> tuple[Source, Int8Result]:
    """The checkpoint fine-tuned under the rounding of int8, and its int8 model; the bound stays that of the first one.

    The first one again where that does not hold the bound either, or costs no less.
    """
    assert first.recovery is not None  # which asks for fine-tuning
    tuned_path = finetuned_checkpoint(source.path, output.with_suffix(".qat.pt"), first.placement, options)
    tuned = Source.read(tuned_path, source.card.precision)
    again = replace(options, qat=None, table=None, reference_ap=first.recovery.reference_ap)
    second = int8_from_float(tuned.trace(), tuned.card, again)
    assert second.recovery is not None
    if not second.recovery.better_than(first.recovery):
        logger.warning("fine-tuning did not help (%s); what giving layers back found is kept", second.recovery)
        return source, first
    return tuned, replace(second, notes=(f"fine-tuned under int8 rounding: {tuned_path}", *second.notes))


def _write(output: Path, built: _Built, images: Sequence[NDArray[np.uint8]]) -> Comparison:
    """Write the file, unless it departs from its source.

    Raises:
        GateFailedError: it does.
        SinkError: it cannot be written.
    """
    add_metadata(built.graph, {ONNX_METADATA_KEY: built.source.card.to_json()})
    onnx.checker.check_model(built.graph, full_check=True)
    with atomic_path(output) as part:
        part.write_bytes(built.graph.SerializeToString())
        with built.source.reference() as reference:
            comparison = compare(reference, part, built.graph, images, built.source.card.precision)
        comparison.check(output)
    return comparison
