"""`ssd-edge boxes`: show how well default boxes cover a dataset, and fit them to it."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssd_edge.cli.arguments import DATA_HELP, add_arch, add_json, add_split, usable_dataset
from ssd_edge.cli.output import print_report

SUMMARY = "show how well default boxes cover a dataset, and fit them to it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, metavar="DATA", help=DATA_HELP)
    add_arch(parser)
    add_split(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    from ssd_edge.training.boxes import compare_boxes

    comparison = compare_boxes(usable_dataset(args), args.arch)
    print_report(comparison.table(), comparison.to_json(), args.json)
