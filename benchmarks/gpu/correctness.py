"""The section that compares with the CPU: preprocess, suppression, whole detections, AP."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np

from benchmarks.gpu.bench import LARGE_BATCH, Bench, open_on_pytorch
from benchmarks.gpu.cases import NmsCase, differing_images, found_by
from benchmarks.gpu.inputs import cases_to_suppress, expected_detections, model_of_pair, onnx_files
from benchmarks.gpu.models import Model, build, open_engine, write_onnx
from benchmarks.gpu.nms_cases import LEVELS, SIZES_HW, preprocess_levels
from benchmarks.gpu.record import Row, attempt, is_lost, need, reason
from ssd_edge.data.lint import lint
from ssd_edge.data.readers import read_dataset
from ssd_edge.detections import Detections
from ssd_edge.runtime.backends.base import Detector
from ssd_edge.runtime.backends.gpu_detector import GpuDetector
from ssd_edge.runtime.detector import open_detector
from ssd_edge.runtime.tensorrt.versions import load_tensorrt

# Of `--map`: detections count as equal within 0.0005 of AP (0.05 points).
AP_TOLERANCE = 0.0005


def tensorrt(bench: Bench, rows: list[Row]) -> None:
    """Which engines can be built and run here."""
    load_tensorrt()  # before files are exported for it
    for model, precision, find in onnx_files(bench, rows):
        for batch in (1,) if bench.quick else (1, LARGE_BATCH):

            def measure(find: Callable[[], Path] = find, key: tuple[str, str, int] = (model, precision, batch)) -> Row:
                engine, figures = build(find(), key[2], bench.folder)
                bench.engines[key] = engine
                return figures

            attempt(rows, {"model": model, "precision": precision, "batch": batch}, measure)


def correctness(bench: Bench, rows: list[Row]) -> None:
    """Kernels and detectors against the CPU's."""
    about: Row = {"check": "preprocess, largest difference in levels", "allowed": LEVELS}
    attempt(rows, about, partial(_preprocess_levels, bench))
    for case_name, make in cases_to_suppress(bench).items():
        about = {"check": f"NMS of {case_name}, images that differ from the reference", "allowed": 0}
        attempt(rows, about, partial(_nms_differences, bench, make))
    for arch, model in bench.each_model(rows):
        expected = cache(partial(reference, bench, model))
        for name, open_gpu in bench.detectors(arch, 1):
            if "int8" not in name:  # its ranges are made up
                about = {"check": f"{arch}, {name}: share of the CPU's 20 best detections that it finds too"}
                attempt(rows, about, partial(_found_share, bench, open_gpu, expected))
    for model_name, data, split in bench.pairs:
        about = {"check": f"AP of {model_name} on {data} {split}"}
        attempt(rows, about, partial(_ap, bench, model_name, data, split))


def _preprocess_levels(bench: Bench) -> Row:
    worst = max(max(preprocess_levels(bench.cuda, *sizes).values()) for sizes in SIZES_HW)
    return {"found": worst, "ok": worst <= LEVELS}


def _nms_differences(bench: Bench, make: Callable[[], NmsCase]) -> Row:
    case = make()
    expected = case.expected()
    differing = sum(len(differing_images(found, expected)) for found in found_by(bench.cuda, case))
    return {"found": differing, "detections": sum(map(len, expected)), "ok": differing == 0 and len(expected[0]) > 0}


def reference(bench: Bench, model: Model) -> tuple[str, Detections]:
    """The CPU's detections: of the ONNX file, which is exported here if need be, or else of the checkpoint."""
    try:
        file = write_onnx(model, "fp32", bench.folder)
    except Exception as error:
        return f"PyTorch, for want of an ONNX file: {reason(error)}", expected_detections(bench, model.file)
    return "ONNX Runtime", expected_detections(bench, file)


def _found_share(
    bench: Bench, open_gpu: Callable[[], GpuDetector], expect: Callable[[], tuple[str, Detections]]
) -> Row:
    """Of the same class, each corner within a hundredth of the frame, the score within a hundredth."""
    reference, expected = expect()
    with open_gpu() as detector:
        for _ in range(3):  # as it comes, captured, replayed
            (found,) = detector([bench.frame])
    best = range(min(20, len(expected)))
    near = 0.01 * max(bench.frame.shape)
    hits = [
        (
            (found.labels == expected.labels[i])
            & (np.abs(found.boxes_xyxy - expected.boxes_xyxy[i]).max(axis=1, initial=0) < near)
            & (np.abs(found.scores - expected.scores[i]) < 0.01)
        ).any()
        for i in best
    ]
    return {"found": float(np.mean(hits)), "detections": len(best), "reference": reference}


def _ap(bench: Bench, model_name: str, data: str, split: str) -> Row:
    """The CPU's and the GPU's, in the same precision."""
    need("pycocotools")
    from ssd_edge.evaluation.evaluate import evaluate

    model = model_of_pair(model_name)
    dataset = lint(read_dataset(Path(data), None if split == "all" else split))[0]

    def ap(detector: Detector) -> float:
        with detector:
            return evaluate(detector, dataset).metrics["AP"]

    row: Row = {"images": len(dataset), "cpu": ap(open_detector(model.file))}
    openers: dict[str, Callable[[], Detector]] = {
        "TensorRT fp32": lambda: open_engine(build(write_onnx(model, "fp32", bench.folder), 8, bench.folder)[0])
    }
    if (checkpoint := model.checkpoint) is not None:
        openers["PyTorch fp32"] = partial(open_on_pytorch, checkpoint, half=False, batch=8)
    for name, open_gpu in openers.items():
        try:
            row[name] = ap(open_gpu())
        except Exception as error:
            if is_lost(error):
                raise
            row |= {f"{name} {key}": text for key, text in reason(error).items()}
    measured = [row[name] for name in openers if name in row]
    if measured:
        row["ok"] = all(abs(value - row["cpu"]) <= AP_TOLERANCE for value in measured)
    return row
