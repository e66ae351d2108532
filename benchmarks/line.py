"""The whole line on a dataset: export a checkpoint, compare mAP, stream the images, score what the stream wrote.

python -m benchmarks.line runs/bccd/last.pt ../shared/data/bccd --split test -o benchmarks/bccd.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from benchmarks.report import report
from ssd_edge.card import file_sha256
from ssd_edge.checkpoint import load_checkpoint
from ssd_edge.data.dataset import DetectionDataset
from ssd_edge.data.lint import lint
from ssd_edge.data.readers import read_dataset
from ssd_edge.demo import read_jsonl
from ssd_edge.evaluation.evaluate import Evaluation, evaluate, evaluate_detections
from ssd_edge.export.onnx_export import export_onnx
from ssd_edge.runtime.detector import open_detector
from ssd_edge.runtime.stream.config import StreamConfig
from ssd_edge.runtime.stream.run import run_stream


def streamed(model: Path, dataset: DetectionDataset, folder: Path, classes: list[str] | None) -> Evaluation:
    """Stream the dataset's images and score the JSON lines, as anyone who reads them would."""
    images = folder / "images"
    images.mkdir()
    for number, record in enumerate(dataset.records):  # the stream takes a folder in the order of its names
        (images / f"{number:06d}{record.path.suffix}").symlink_to(record.path.resolve())
    with open_detector(model) as detector:
        card = detector.card
    lines = folder / "detections.jsonl"
    run_stream(StreamConfig(images, model, jsonl=str(lines), score_threshold=card.score_threshold))
    return evaluate_detections(read_jsonl(lines), dataset, card.class_names, classes=classes)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--split")
    parser.add_argument("--classes", type=lambda text: text.split(","), help="score these classes only")
    parser.add_argument("-o", "--output", type=Path, help="write the figures here as JSON")
    args = parser.parse_args()
    dataset = lint(read_dataset(args.data, args.split))[0]
    with tempfile.TemporaryDirectory() as name:
        onnx = Path(name) / "model.onnx"
        print(export_onnx(args.checkpoint, onnx, data=dataset))
        evaluations = {}
        for backend, model in (("PyTorch", args.checkpoint), ("ONNX Runtime", onnx)):
            with open_detector(model) as detector:
                evaluations[backend] = evaluate(detector, dataset, classes=args.classes)
        evaluations["stream, from its JSON lines"] = streamed(onnx, dataset, Path(name), args.classes)
    reference = evaluations["PyTorch"].metrics["AP"]
    figures = {
        "model": load_checkpoint(args.checkpoint).card.arch,
        "checkpoint_sha256": file_sha256(args.checkpoint),
        "data": f"{dataset.name}, {len(dataset)} images",
        "classes": args.classes or list(dataset.class_names),
        "results": {name: json.loads(evaluation.to_json()) for name, evaluation in evaluations.items()},
        "AP_difference_to_PyTorch": {name: e.metrics["AP"] - reference for name, e in evaluations.items()},
    }
    report(figures, args.output)


if __name__ == "__main__":
    main()
