"""`measure.py --dry-run`: what each section prepares without a GPU, so that what is missing shows beforehand."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks.gpu.cases import NmsCase
from benchmarks.gpu.inputs import (
    Inputs,
    cases_to_suppress,
    expected_detections,
    import_peers,
    model_of_pair,
    onnx_files,
    ssd300_checkpoint,
    ssd300_scores,
)
from benchmarks.gpu.models import EXPORT_PACKAGES, Model
from benchmarks.gpu.record import NotRunError, Row, attempt, need
from ssd_edge.data.lint import lint
from ssd_edge.data.readers import read_dataset


def dry_run(inputs: Inputs, names: list[str]) -> int:
    """Prepare the sections and print what came of it; the exit status: 1 if something failed, else 0.

    Packages that are missing are printed, and are no failure: the sections leave out what needs them.
    """
    begin = time.perf_counter()
    rows: list[Row] = []
    for name in names:
        print(f"\n## {name}", flush=True)
        PREPARATIONS[name](inputs, rows)
    failed = sum("failed" in row for row in rows)
    left_out = sum("not_run" in row for row in rows)
    seconds = time.perf_counter() - begin
    print(f"dry run: {len(rows)} steps in {seconds:.1f} s, {failed} failed, {left_out} left out; no GPU was opened")
    return 1 if failed else 0


def _tensorrt(inputs: Inputs, rows: list[Row]) -> None:
    """ONNX files in all precisions, but for exports by torch, which take minutes on a slow core."""
    for model, precision, find in onnx_files(inputs, rows):
        attempt(rows, {"model": model, "precision": precision}, partial(_onnx_file, inputs, model, find))


def _onnx_file(inputs: Inputs, name: str, find: Callable[[], Path]) -> Row:
    model = inputs.models.get(name)
    if model is not None and model.onnx is None:
        need(*EXPORT_PACKAGES)
        import ssd_edge.calib.placement.tensorrt
        import ssd_edge.export.fp16.convert
        import ssd_edge.export.onnx_export  # noqa: F401

        raise NotRunError("dry runs leave the export out; what it imports is here")
    return {"bytes": find().stat().st_size}


def _correctness(inputs: Inputs, rows: list[Row]) -> None:
    for name, make in cases_to_suppress(inputs).items():
        attempt(rows, {"prepared": f"NMS of {name}"}, partial(_case, make))
    for arch, model in inputs.each_model(rows):
        attempt(rows, {"prepared": f"detections of {arch} on the CPU"}, partial(_detections, inputs, model))
    for pair in inputs.pairs:
        attempt(rows, {"prepared": f"mAP of {' '.join(pair)}"}, partial(_pair, *pair))


def _case(make: Callable[[], NmsCase]) -> Row:
    return {"found": sum(map(len, make().expected()))}


def _detections(inputs: Inputs, model: Model) -> Row:
    return {"found": len(expected_detections(inputs, model.file))}


def _pair(model: str, data: str, split: str) -> Row:
    need("pycocotools")
    import ssd_edge.evaluation.evaluate  # noqa: F401

    model_of_pair(model)
    return {"images": len(lint(read_dataset(Path(data), None if split == "all" else split))[0])}


def _suppression(inputs: Inputs, rows: list[Row]) -> None:
    attempt(rows, {"prepared": "torchvision's suppression, on the CPU"}, partial(_torchvision_suppression, inputs))


def _torchvision_suppression(inputs: Inputs) -> Row:
    import_peers()
    import torch

    from benchmarks.gpu.torch_peers import TorchvisionSuppression

    checkpoint = ssd300_checkpoint(inputs)
    with torch.inference_mode():
        peer = TorchvisionSuppression(ssd300_scores(inputs, 1)[0], checkpoint, device="cpu")
        peer.decode()
        return {"detections": len(peer.suppress()[0]["labels"]), "boxes": list(peer.boxes.shape)}


def _end_to_end(inputs: Inputs, rows: list[Row]) -> None:
    for arch, model in inputs.each_model(rows):
        attempt(rows, {"prepared": f"torchvision's {arch}, on the CPU"}, partial(_torchvision, inputs, model))


def _torchvision(inputs: Inputs, model: Model) -> Row:
    import_peers()
    from benchmarks.gpu.torch_peers import torchvision_peer

    if model.checkpoint is None:
        raise NotRunError(f"{model.file.name} is no checkpoint, which torchvision needs")
    with ExitStack() as stack:
        run = stack.enter_context(torchvision_peer(model.checkpoint, inputs.frame, compiled=False, device="cpu"))
        found = run()
    assert isinstance(found, dict)
    return {"detections": len(found["labels"])}


def _hardware_floor(inputs: Inputs, rows: list[Row]) -> None:
    for arch, model in inputs.each_model(rows):
        attempt(rows, {"prepared": f"arithmetic of {arch}"}, partial(_tera_flop, model))


def _tera_flop(model: Model) -> Row:
    need("torch", "safetensors")
    from benchmarks.gpu.torch_peers import tera_flop

    if model.checkpoint is None:
        raise NotRunError(f"{model.file.name} is no checkpoint, whose arithmetic is counted")
    return {"tera_flop": tera_flop(model.checkpoint)}


def _nothing(inputs: Inputs, rows: list[Row]) -> None:
    """The section makes its inputs itself, from what the other preparations have shown to be there."""


PREPARATIONS: dict[str, Callable[[Inputs, list[Row]], None]] = {
    "tensorrt": _tensorrt,
    "correctness": _correctness,
    "suppression": _suppression,
    "preprocess": _nothing,
    "whole_graph": _nothing,
    "end_to_end": _end_to_end,
    "hardware_floor": _hardware_floor,
}
