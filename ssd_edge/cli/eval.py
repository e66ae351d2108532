"""`ssd-edge eval`: measure the COCO and VOC metrics of a model on a dataset."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssd_edge.choices import CHECKPOINT_SUFFIXES, EVALUATION_BATCH
from ssd_edge.cli.arguments import (
    DATA_HELP,
    add_json,
    add_split,
    add_threads,
    class_names,
    positive_int,
    score,
    usable_dataset,
)
from ssd_edge.cli.output import print_report
from ssd_edge.errors import UsageError

SUMMARY = "measure the COCO and VOC metrics of a model on a dataset"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL", help="checkpoint (.pt, .safetensors), .onnx or .engine")
    parser.add_argument("data", type=Path, metavar="DATA", help=DATA_HELP)
    add_split(parser)
    parser.add_argument("--classes", type=class_names, metavar="A,B", help="score these classes only (all)")
    parser.add_argument("--batch", type=positive_int, default=EVALUATION_BATCH, help="images at a time (%(default)s)")
    add_threads(parser)
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (a checkpoint: CUDA where there is one; .onnx: cpu)")
    add_json(parser)
    parser.add_argument(
        "--report", type=Path, metavar="DIR", help="write plots of the errors, the worst images and report.json"
    )
    parser.add_argument("--score", type=score, help="with --report: count detections above this (best F1)")


def run(args: argparse.Namespace) -> None:
    from ssd_edge.evaluation.evaluate import evaluate
    from ssd_edge.runtime.detector import open_detector

    if args.score is not None and not args.report:
        raise UsageError("--score is the threshold of the report's confusion matrix and images; give --report DIR too")
    if args.report:  # what it may lack shows before the long work
        from ssd_edge.evaluation.report import write_report
        from ssd_edge.files import check_folder

        check_folder(args.report)
    with open_detector(args.model, threads=args.threads, device=_eval_device(args)) as detector:
        dataset = usable_dataset(args)
        evaluation = evaluate(detector, dataset, classes=args.classes, batch=args.batch)
    print_report(evaluation.table(), evaluation.to_json(), args.json)
    if args.report:
        print("", *write_report(args.report, evaluation, dataset, score=args.score), sep="\n")


def _eval_device(args: argparse.Namespace) -> str | None:
    """What --device names; without it, CUDA for a checkpoint where there is one, as in training."""
    device: str | None = args.device
    if device is None and args.model.suffix in CHECKPOINT_SUFFIXES:
        from ssd_edge.torch_device import default_device

        device = default_device()
    return device
