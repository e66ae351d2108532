"""INT8 in the graph: calibrate, place Q/DQ for the target, and give back what accuracy needs.

One table of ranges serves both targets. For `tensorrt` what stays float is half, as a GPU computes it faster than
float32; for `cpu` it is float32, as ONNX Runtime's CPU kernels have no other.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from ssd_edge.calib.calibrate import calibrate_or_reuse, ranges_warning
from ssd_edge.calib.recovery import Recovery, Trials, recover
from ssd_edge.calib.table import CalibrationTable
from ssd_edge.card import CALIBRATION_METADATA_KEY, INT8_METADATA_KEY, ModelCard
from ssd_edge.errors import GateFailedError
from ssd_edge.export.int8.options import Int8Options
from ssd_edge.export.int8.placement import Placement
from ssd_edge.export.int8.trials import RelativeTime, ap_of, arithmetic, emulated, error_images, error_of
from ssd_edge.onnx_graph import add_metadata

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Int8Result:
    """An int8 model and what was decided on the way.

    Attributes:
        model: Q/DQ in place, with metadata, without a card.
        placement: with which it was made.
        recovery: None where no bound was asked for.
    """

    model: onnx.ModelProto
    placement: Placement
    notes: tuple[str, ...]
    recovery: Recovery | None = None

    @property
    def wants_finetuning(self) -> bool:
        """Whether a bound was asked for, and giving layers back did not do, or costs more than a fifth of the speed."""
        return self.recovery is not None and self.recovery.wants_finetuning

    def check(self) -> None:
        """Do nothing when mAP holds, or was not asked for.

        Raises:
            GateFailedError: it does not.
        """
        if self.recovery is not None and not self.recovery.enough:
            raise GateFailedError(
                f"int8 reaches AP {self.recovery.chosen.ap:.4f} with "
                f"{len(self.recovery.chosen.kept_float)} of {len(self.recovery.ranking)} layers in float, but AP ≥ "
                f"{self.recovery.floor:.4f} was asked for; allow a larger --max-drop, or fine-tune with --qat EPOCHS"
            )


def int8_from_float(graph: onnx.ModelProto, card: ModelCard, options: Int8Options) -> Int8Result:
    """Make the int8 model of a float graph.

    Args:
        graph: as `onnx_from_predictor` gives it.
        card: of the checkpoint.

    Raises:
        DatasetError, ModelFileError, SinkError: as `calibrate_or_reuse`; nothing to score among the validation images.
    """
    size_hw = (card.height, card.width)
    table = _table(graph, options, size_hw)
    notes = [f"ranges by {options.method} over {table.images} images, Q/DQ placed for {options.target}"]
    for warning in _warnings(table, graph, options, size_hw):
        logger.warning("warning: %s", warning)
        notes.append(f"warning: {warning}")
    placement = Placement(graph, table, options)
    recovery = None
    if options.max_drop is not None:
        recovery = _recover(placement, card, options)
        notes += str(recovery).splitlines()
    kept = recovery.chosen.kept_float if recovery else ()
    model, half_notes = placement.final(kept)
    notes += half_notes
    notes.append(placement.describe(kept))
    _describe(model, table, options, kept)
    return Int8Result(model, placement, tuple(notes), recovery)


def _table(graph: onnx.ModelProto, options: Int8Options, size_hw: tuple[int, int]) -> CalibrationTable:
    with tempfile.TemporaryDirectory() as folder:
        return calibrate_or_reuse(
            options.table or Path(folder) / "ranges.json",
            graph,
            options.images,
            size_hw=size_hw,
            settings=options.settings,
            threads=options.threads,
            progress=options.progress,
        )


def _warnings(
    table: CalibrationTable, graph: onnx.ModelProto, options: Int8Options, size_hw: tuple[int, int]
) -> Iterator[str]:
    """What is to be said of the images that mAP is measured on."""
    if options.validation is None:
        return
    paths = [record.path for record in options.validation.records]
    judged, seen = ({path.resolve() for path in part} for part in (paths, options.images.paths))
    if options.qat is not None:
        seen |= {record.path.resolve() for record in options.qat.data.records}
    if shared := len(judged & seen):
        yield f"{shared} of {len(judged)} images that mAP is measured on are calibrated or trained on too"
    other_domain = ranges_warning(
        table, graph, paths, size_hw=size_hw, threads=options.threads, progress=options.progress
    )
    if other_domain:
        yield other_domain


def _recover(placement: Placement, card: ModelCard, options: Int8Options) -> Recovery:
    assert options.max_drop is not None
    assert options.validation is not None
    validation = options.validation
    measure_ap = ap_of(card, validation, options)
    reference = measure_ap(placement.graph) if options.reference_ap is None else options.reference_ap
    batch = error_images(validation, card)
    if options.target == "cpu":
        cost: Callable[[Collection[str]], float] = RelativeTime(placement, batch[:1], options.threads)
    else:
        cost = arithmetic(placement)
    return recover(
        placement.layers,
        Trials(
            ap=lambda kept: measure_ap(emulated(placement.final(kept)[0], options.target)),
            error=error_of(placement, batch, options.threads),
            cost=cost,
        ),
        reference_ap=reference,
        floor=options.max_drop.floor(reference),
        cost_unit="time" if options.target == "cpu" else "estimated arithmetic",
        say=logger.info,
    )


def _describe(model: onnx.ModelProto, table: CalibrationTable, options: Int8Options, kept_float: Sequence[str]) -> None:
    """Write into the metadata how the model was made."""
    description: dict[str, Any] = {
        "target": options.target,
        "method": options.method,
        "images": table.images,
        "kept_float": list(kept_float),
    }
    if options.target == "tensorrt":
        description["int8_heads"] = options.int8_heads
    add_metadata(model, {CALIBRATION_METADATA_KEY: table.fingerprint, INT8_METADATA_KEY: json.dumps(description)})
