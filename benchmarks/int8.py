"""Accuracy of one checkpoint in every precision, with every calibrator and both placements; a row each.

python -m benchmarks.int8 runs/bccd/last.pt DATA/bccd --split test --calib DATA/bccd -o benchmarks/int8_bccd.json

For TensorRT the first method has a second row, with the heads in int8 too.

Every file is scored by ONNX Runtime on the CPU, which computes half in float32 where it has no half kernels.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

from benchmarks.report import report
from ssd_edge.calib.images import CalibrationImages, calibration_images
from ssd_edge.card import ONNX_METADATA_KEY, file_sha256
from ssd_edge.checkpoint import load_checkpoint
from ssd_edge.choices import METHODS, TARGETS
from ssd_edge.data.dataset import DetectionDataset
from ssd_edge.data.lint import lint
from ssd_edge.data.readers import read_dataset
from ssd_edge.evaluation.evaluate import evaluate
from ssd_edge.export.int8.convert import int8_from_float
from ssd_edge.export.int8.options import Int8Options
from ssd_edge.export.onnx_export import export_onnx
from ssd_edge.onnx_graph import add_metadata
from ssd_edge.runtime.detector import open_detector


def exports(
    checkpoint: Path, folder: Path, images: CalibrationImages, args: argparse.Namespace
) -> Iterator[tuple[dict[str, str | bool], Path]]:
    """Each file, with what it is."""
    for precision in ("fp32", "fp16"):
        path = folder / f"{precision}.onnx"
        print(export_onnx(checkpoint, path, precision=precision))
        yield {"precision": precision}, path
    in_float, card = onnx.load(folder / "fp32.onnx"), load_checkpoint(checkpoint).card
    for target in args.targets:
        kinds = [(method, False) for method in args.methods]
        if target == "tensorrt":
            kinds.insert(1, (args.methods[0], True))
        for method, int8_heads in kinds:
            path = folder / f"{target}_{method}_{int8_heads}.onnx"
            options = Int8Options(
                images, target, method, int8_heads, table=folder / "ranges.json", threads=args.threads
            )
            result = int8_from_float(in_float, card, options)  # as `export_onnx` does, without tracing every time
            add_metadata(result.model, {ONNX_METADATA_KEY: replace(card, precision="int8").to_json()})
            path.write_bytes(result.model.SerializeToString())
            print(*result.notes, sep="\n")
            heads = {"int8_heads": int8_heads} if target == "tensorrt" else {}
            yield {"precision": "int8", "target": target, "method": method, **heads}, path


def scored(path: Path, dataset: DetectionDataset, threads: int | None) -> dict[str, Any]:
    """AP, AP50 and size of a file."""
    with open_detector(path, threads=threads) as detector:
        metrics = evaluate(detector, dataset).metrics
    return {"AP": metrics["AP"], "AP50": metrics["AP50"], "megabytes": os.path.getsize(path) / 1e6}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--split")
    parser.add_argument("--calib", type=Path, required=True)
    parser.add_argument("--calib-split")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--methods", type=lambda text: text.split(","), default=METHODS)
    parser.add_argument("--targets", type=lambda text: text.split(","), default=TARGETS)
    parser.add_argument("--scored", type=int, help="score only the first so many images")
    parser.add_argument("--threads", type=int)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    dataset = lint(read_dataset(args.data, args.split))[0]
    dataset = replace(dataset, records=dataset.records[: args.scored])
    images = calibration_images(args.calib, args.images, split=args.calib_split)
    figures = {
        "model": load_checkpoint(args.checkpoint).card.arch,
        "checkpoint_sha256": file_sha256(args.checkpoint),
        "data": f"{dataset.name}, {len(dataset)} images",
        "calibration": f"{len(images)} images",
    }
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        for kind, path in exports(args.checkpoint, Path(name), images, args):
            row = {**kind, **scored(path, dataset, args.threads)}
            row["drop"] = rows[0]["AP"] - row["AP"] if rows else 0.0
            rows.append(row)
            report(figures | {"rows": rows}, args.output)  # after each row: all of them take hours


if __name__ == "__main__":
    main()
