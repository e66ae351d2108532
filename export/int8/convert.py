"""INT8 in the graph: calibrate, place Q/DQ for the target, and give back what accuracy needs.

One table of ranges serves both targets. For `tensorrt` what stays float is half, as on a GPU nobody wants float32; for
`cpu` it is float32, as ONNX Runtime's CPU kernels have no other.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from ssd_edge.calib.calibrate import DEFAULT_SETTINGS, calibrate_or_reuse, ranges_warning
from ssd_edge.calib.images import CalibrationImages
from ssd_edge.calib.placement.cpu import layers_for_cpu, place_for_cpu
from ssd_edge.calib.placement.graph import Graph
from ssd_edge.calib.placement.tensorrt import (
    OF_THE_HEADS,
    float_layers_for_tensorrt,
    layers_for_tensorrt,
    place_for_tensorrt,
)
from ssd_edge.calib.qat.module_ranges import float_layers, module_ranges
from ssd_edge.calib.recovery import Recovery, Trials, recover
from ssd_edge.calib.table import METHODS, CalibrationSettings, CalibrationTable
from ssd_edge.card import CALIBRATION_METADATA_KEY, INT8_METADATA_KEY, ONNX_METADATA_KEY, ModelCard
from ssd_edge.data.dataset import DetectionDataset
from ssd_edge.errors import GateFailedError, UsageError
from ssd_edge.evaluation.evaluate import evaluate
from ssd_edge.export.fp16.convert import emulated_half, half_from_float
from ssd_edge.files import atomic_path
from ssd_edge.images import load_image
from ssd_edge.parity.max_drop import MaxDrop
from ssd_edge.runtime.backends.onnxruntime import OnnxDetector
from ssd_edge.runtime.preprocess import preprocess

log = logging.getLogger(__name__)

TARGETS = ("tensorrt", "cpu")
DEFAULT_METHOD = "minmax"
ERROR_IMAGES = 8  # that a layer's sensitivity is measured on
TIMED_RUNS = 15
OVERFLOW_IMAGES = 8  # that the float part is looked at for overflow of half
LAYERS_SHOWN = 6
FASTER_IN_FLOAT = "at the beginning, where float kernels are faster"  # of `cpu`
GIVEN_BACK = "given back to float"


@dataclass(frozen=True)
class QatOptions:
    """Quantisation-aware fine-tuning as the last resort: passes over labelled training images."""

    epochs: int
    data: DetectionDataset


@dataclass(frozen=True)
class Int8Options:
    """How an int8 file is made.

    Attributes:
        images: to calibrate on.
        target: `tensorrt` or `cpu`: whose kernels the Q/DQ pairs are placed for.
        int8_heads: for `tensorrt`, quantise the heads' convolutions too; for `cpu` they are quantised anyway.
        method: how a range follows from what was seen, one of `METHODS`.
        table: file of the ranges, made anew or used again.
        settings: of the ranges.
        max_drop: how much mAP may be lost; None: it is not measured.
        validation: labelled images to measure mAP on, and to compare ranges with.
        reference_ap: AP that `max_drop` is counted from; None: that of the float graph.
        qat: fine-tune where recovery fails or costs more than a fifth of the speed; None: never.
        threads: for ONNX Runtime.
        progress: show progress bars where standard error is a terminal.

    Raises:
        UsageError: an unknown target or method, `int8_heads` for `cpu`, or a largest drop without images to measure it
            on.
    """

    images: CalibrationImages
    target: str = "tensorrt"
    method: str = DEFAULT_METHOD
    int8_heads: bool = False
    table: Path | None = None
    settings: CalibrationSettings = DEFAULT_SETTINGS
    max_drop: MaxDrop | None = None
    validation: DetectionDataset | None = None
    reference_ap: float | None = None
    qat: QatOptions | None = None
    threads: int | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise UsageError(f"unknown target {self.target!r}; expected {' or '.join(TARGETS)}")
        if self.method not in METHODS:
            raise UsageError(f"unknown calibration method {self.method!r}; expected one of {', '.join(METHODS)}")
        if self.int8_heads and self.target != "tensorrt":
            raise UsageError(f"int8 heads are for the target tensorrt; for {self.target} they are int8 in any case")
        if self.max_drop is not None and self.validation is None:
            raise UsageError("a largest drop of mAP needs labelled images to measure it on; give --data VALIDATION")
        if self.qat is not None and self.max_drop is None:
            raise UsageError("fine-tuning is for where a bound fails; give --max-drop too")


@dataclass(frozen=True)
class Int8Result:
    """An int8 model and what was decided on the way.

    Attributes:
        model: Q/DQ in place, with metadata, without a card.
        integer_layers: convolutions in int8.
        recovery: None where no bound was asked for.
    """

    model: onnx.ModelProto
    integer_layers: int
    notes: tuple[str, ...]
    recovery: Recovery | None = None

    @property
    def wants_finetuning(self) -> bool:
        """Whether giving layers back did not do, or costs more than a fifth of the speed."""
        return self.recovery is not None and (not self.recovery.enough or self.recovery.costly)

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
    if options.validation is not None:
        notes += _overlap(options)
        paths = [record.path for record in options.validation.records]
        warning = ranges_warning(
            table, graph, paths, size_hw=size_hw, threads=options.threads, progress=options.progress
        )
        if warning:
            log.warning("warning: %s", warning)
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
    return Int8Result(model, len(placement.layers) - len(kept), tuple(notes), recovery)


def finetuned_checkpoint(checkpoint: Path, output: Path, graph: onnx.ModelProto, options: Int8Options) -> Path:
    """Fine-tune a checkpoint under the rounding of its int8 graph; returns the path of the new one, `output`.

    Raises:
        DatasetError, SinkError, SsdEdgeError: as `quantization_aware_finetune`.
    """
    from ssd_edge.calib.qat.finetune import quantization_aware_finetune  # the trainer, only where it is asked for

    assert options.qat is not None
    table = _table(graph, options, _size_hw(graph))
    placement = Placement(graph, table, options)
    ranges = {name: table.range_of(name, options.method) for name in table.ranges}
    return quantization_aware_finetune(
        checkpoint,
        output,
        data=options.qat.data,
        val=options.validation,
        epochs=options.qat.epochs,
        target=options.target,
        ranges=module_ranges(graph, ranges),
        float_layers=float_layers(graph, placement.place()),
        progress=options.progress,
        threads=options.threads,
    )


def _size_hw(graph: onnx.ModelProto) -> tuple[int, int]:
    _, height, width, _ = (dim.dim_value for dim in graph.graph.input[0].type.tensor_type.shape.dim)
    return height, width


def _overlap(options: Int8Options) -> list[str]:
    """A warning where mAP is measured on images that the ranges, or the fine-tuned weights, come from."""
    assert options.validation is not None
    judged = {record.path.resolve() for record in options.validation.records}
    seen = {path.resolve() for path in options.images.paths}
    if options.qat is not None:
        seen |= {record.path.resolve() for record in options.qat.data.records}
    shared = len(judged & seen)
    if not shared:
        return []
    warning = f"warning: {shared} of {len(judged)} images that mAP is measured on are calibrated or trained on too"
    log.warning("%s", warning)
    return [warning]


class Placement:
    """A float graph, its ranges, and the placement of a target; layers are named as in the checkpoint.

    Attributes:
        layers: convolutions that the target runs in int8, in graph order.
    """

    def __init__(self, graph: onnx.ModelProto, table: CalibrationTable, options: Int8Options) -> None:
        self.graph, self._table, self._options = graph, table, options
        if options.target == "cpu":
            integer, reasons = layers_for_cpu(graph), {}
            self._place = place_for_cpu
        else:
            integer = layers_for_tensorrt(graph, int8_heads=options.int8_heads)
            reasons = float_layers_for_tensorrt(graph, int8_heads=options.int8_heads)
            self._place = partial(place_for_tensorrt, int8_heads=options.int8_heads)
        self._nodes = {_layer_name(node): node for node in integer}
        self.layers = tuple(self._nodes)
        indexed = Graph(graph)
        convolutions = [node for node in indexed.nodes if node.op_type == "Conv"]
        self._multiplications = {node.name: indexed.multiplications(node) for node in convolutions}
        self._why_float = {
            name: reasons.get(name, FASTER_IN_FLOAT)
            for name in self._multiplications.keys() - {node.name for node in integer}
        }

    def place(self, keep_float: Collection[str] = ()) -> onnx.ModelProto:
        """The model with these layers left float."""
        return self._place(
            self.graph,
            lambda tensor: self._table.range_of(tensor, self._options.method),
            keep_float=self._outputs(keep_float),
        )

    def final(self, keep_float: Collection[str] = ()) -> tuple[onnx.ModelProto, list[str]]:
        """The model as it is written, for `tensorrt` with its float part in half, and what there is to say of that."""
        model = self.place(keep_float)
        if self._options.target != "tensorrt":
            return model, []
        images = [load_image(path) for path in self._options.images.paths[:OVERFLOW_IMAGES]]
        half, report = half_from_float(model, [preprocess(image, _size_hw(model)) for image in images])
        return half, [line for line in str(report).splitlines() if line.startswith(("kept in float32", "note"))]

    def work(self, keep_float: Collection[str] = ()) -> int:
        """Multiplications for one image, one in half counted as two in int8, as on NVIDIA's tensor cores.

        All convolutions count: those that are never int8 make a layer given back cost a smaller share.
        """
        in_float = {*self._why_float, *self._outputs(keep_float)}
        return sum(count * (2 if name in in_float else 1) for name, count in self._multiplications.items())

    def describe(self, keep_float: Collection[str] = ()) -> str:
        """How many convolutions are int8, and why the others are not, each with its share of the multiplications."""
        reasons = self._why_float | dict.fromkeys(self._outputs(keep_float), GIVEN_BACK)
        numbers, multiplications = Counter(reasons.values()), Counter[str]()
        for name, reason in reasons.items():
            multiplications[reason] += self._multiplications[name]
        whole = sum(self._multiplications.values()) or 1
        share = 1 - sum(multiplications.values()) / whole
        total = len(self._multiplications)
        text = f"{total - len(reasons)} of {total} convolutions in int8, {share:.0%} of the multiplications"
        others = [f"{numbers[reason]} {reason} ({part / whole:.1%})" for reason, part in multiplications.most_common()]
        if OF_THE_HEADS in numbers:
            others.append("--int8-heads quantises the heads too")
        return "; ".join([text, *([f"not {', '.join(others)}"] if others else [])])

    def _outputs(self, layers: Collection[str]) -> list[str]:
        return [self._nodes[name].output[0] for name in layers]


def _layer_name(node: onnx.NodeProto) -> str:
    """A convolution's name in the checkpoint; the exporter keeps it in the name of its weights."""
    return str(node.input[1]).removeprefix("model.").removesuffix(".weight")


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


def _recover(placement: Placement, card: ModelCard, options: Int8Options) -> Recovery:
    assert options.max_drop is not None
    assert options.validation is not None
    validation = options.validation
    measure_ap = _ap_of(card, validation, options)
    reference = measure_ap(placement.graph) if options.reference_ap is None else options.reference_ap
    batch = _error_images(validation, card)
    if options.target == "cpu":
        cost: Callable[[Collection[str]], float] = _RelativeTime(placement, batch[:1], options.threads)
    else:
        cost = _arithmetic(placement)
    return recover(
        placement.layers,
        Trials(
            ap=lambda kept: measure_ap(_emulated(placement.final(kept)[0], options.target)),
            error=_error_of(placement, batch, options.threads),
            cost=cost,
        ),
        reference_ap=reference,
        floor=options.max_drop.floor(reference),
        cost_unit="time" if options.target == "cpu" else "estimated arithmetic",
        say=log.info,
    )


def _emulated(model: onnx.ModelProto, target: str) -> onnx.ModelProto:
    """What computes on the CPU as the file does where it is meant to run: each half tensor rounded."""
    return model if target == "cpu" else emulated_half(model)


def _ap_of(card: ModelCard, data: DetectionDataset, options: Int8Options) -> Callable[[onnx.ModelProto], float]:
    """Measures a model's AP by way of a file, as every other measurement does."""

    def ap(model: onnx.ModelProto) -> float:
        whole = onnx.ModelProto()
        whole.CopyFrom(model)
        metadata = {ONNX_METADATA_KEY: replace(card, precision="int8").to_json()}
        onnx.helper.set_model_props(whole, metadata | {INT8_METADATA_KEY: json.dumps({"target": options.target})})
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trial.onnx"
            path.write_bytes(whole.SerializeToString())
            with OnnxDetector(path, threads=options.threads) as detector:
                return float(evaluate(detector, data, progress=options.progress).metrics["AP"])

    return ap


def _error_images(data: DetectionDataset, card: ModelCard) -> NDArray[np.uint8]:
    """Images spread over the data, uint8 [n, height, width, 3]."""
    picks = np.linspace(0, len(data) - 1, min(ERROR_IMAGES, len(data))).round().astype(int)
    return np.stack([preprocess(load_image(data.records[pick].path), (card.height, card.width)) for pick in picks])


def _error_of(
    placement: Placement, images: NDArray[np.uint8], threads: int | None
) -> Callable[[Collection[str]], float]:
    """Mean squared error of the outputs against the float model's: of log-odds, and of boxes in units of their spread.

    Log-odds, for a score near 0 or 1 hides how far a logit moved.
    """

    def outputs(model: onnx.ModelProto) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        session = _session(model, threads)
        results = [session.run(["boxes", "scores"], {"images": image[None]}) for image in images]
        boxes, scores = (np.concatenate(part).astype(np.float64) for part in zip(*results, strict=True))
        scores = scores.clip(1e-6, 1 - 1e-6)
        return boxes, np.log(scores / (1 - scores))

    boxes, log_odds = outputs(placement.graph)

    def error(kept: Collection[str]) -> float:
        got_boxes, got_log_odds = outputs(placement.place(kept))
        of_boxes = np.mean((got_boxes - boxes) ** 2) / (boxes.var() or 1.0)
        return float(of_boxes + np.mean((got_log_odds - log_odds) ** 2) / (log_odds.var() or 1.0))

    return error


class _RelativeTime:
    """Times a model against the one with every layer in int8, in turns, so that a busy machine slows both."""

    def __init__(self, placement: Placement, image: NDArray[np.uint8], threads: int | None) -> None:
        self._placement, self._image, self._threads = placement, image, threads
        self._all_int8 = _session(placement.place(), threads)

    def __call__(self, kept: Collection[str]) -> float:
        if not kept:
            return 1.0
        sessions = self._all_int8, _session(self._placement.place(kept), self._threads)
        seconds: list[list[float]] = [[], []]
        for _ in range(TIMED_RUNS + 1):
            for session, of_session in zip(sessions, seconds, strict=True):
                begin = time.perf_counter()
                session.run(None, {"images": self._image})
                of_session.append(time.perf_counter() - begin)
        base, given_back = (float(np.median(of_session[1:])) for of_session in seconds)
        return given_back / base


def _arithmetic(placement: Placement) -> Callable[[Collection[str]], float]:
    """Work relative to that with all layers in int8 that can be.

    An estimate for where no GPU is at hand: it knows nothing of memory, nor of what reformatting costs.
    """
    whole = placement.work() or 1
    return lambda kept: placement.work(kept) / whole


def _session(model: onnx.ModelProto, threads: int | None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3  # errors only
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


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


def add_metadata(model: onnx.ModelProto, values: Mapping[str, str]) -> None:
    """Set entries of a model's metadata; others stay."""
    onnx.helper.set_model_props(model, {prop.key: prop.value for prop in model.metadata_props} | dict(values))


def remove_recovery(output: Path) -> None:
    """Remove the curve of an earlier model of this name, which says nothing of the one that took its place."""
    for suffix in (".recovery.json", ".recovery.png"):
        output.with_suffix(suffix).unlink(missing_ok=True)


def write_recovery(output: Path, recovery: Recovery, *, title: str) -> None:
    """Write the curve of accuracy against speed beside the model: JSON, and a PNG where matplotlib is installed.

    Raises:
        SinkError: they cannot be written.
    """
    with atomic_path(output.with_suffix(".recovery.json")) as part:
        part.write_text(recovery.to_json() + "\n", encoding="utf-8")
    if importlib.util.find_spec("matplotlib"):
        from ssd_edge.calib.recovery_plot import plot_recovery

        plot_recovery(output.with_suffix(".recovery.png"), recovery, title=title)
