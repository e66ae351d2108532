"""`ssd-edge parity`: compare models with their checkpoint, by mAP and stage by stage."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssd_edge.choices import SHOWN_SCORE
from ssd_edge.cli.arguments import DATA_HELP, add_json, add_split, add_threads, positive_int, score, usable_dataset
from ssd_edge.cli.output import print_report

SUMMARY = "compare models with their checkpoint, by mAP and stage by stage"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="CHECKPOINT", help="the reference, run in PyTorch; or any MODEL")
    add("models", type=Path, nargs="+", metavar="MODEL", help="models to compare with it: .onnx, .engine, checkpoints")
    add("--data", type=Path, required=True, help=DATA_HELP)
    add_split(parser)
    add(
        "--max-drop",
        default="1%",
        metavar="DROP",
        help="mAP that may be lost: a share of the reference's such as 1%%, or 0.005 in absolute terms (1%%)",
    )
    add("--stages", action="store_true", help="compare logits, boxes, scores and detections too; name what departs")
    add("--html", type=Path, metavar="DIR", help="write a report with pictures of the worst images; with --stages")
    add("--images", type=positive_int, metavar="N", help="compare on N images spread over the dataset (all)")
    add("--score", type=score, default=SHOWN_SCORE, help="with --stages: count detections above this (%(default)s)")
    add_threads(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    from ssd_edge.parity.max_drop import MaxDrop
    from ssd_edge.parity.run import parity

    max_drop = MaxDrop.parse(args.max_drop)  # before the long work
    if args.html:
        from ssd_edge.files import check_folder
        from ssd_edge.parity.html import write_html

        check_folder(args.html)
    report = parity(
        args.checkpoint,
        args.models,
        usable_dataset(args),
        max_drop=max_drop,
        stages=args.stages or args.html is not None,
        images=args.images,
        score=args.score,
        threads=args.threads,
    )
    print_report(report.table(), report.to_json(), args.json)
    if args.html:
        print("", write_html(args.html, report), sep="\n")
    report.check()
