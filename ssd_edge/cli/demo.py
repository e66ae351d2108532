"""`ssd-edge demo`: render a short video of codes, stream it, show the numbers."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssd_edge.cli.arguments import add_threads, positive_number

SUMMARY = "render a short video of codes, stream it, show the numbers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("demo-output"), metavar="DIR", help="folder to write to (%(default)s)"
    )
    parser.add_argument("--model", type=Path, help="model file (the bundled one)")
    parser.add_argument("--seconds", type=positive_number, default=10.0, help="length of the video (%(default)g)")
    add_threads(parser)


def run(args: argparse.Namespace) -> None:
    from ssd_edge.bundled import bundled_model
    from ssd_edge.demo import run_demo

    model = args.model or bundled_model()
    print(run_demo(args.output, model=model, seconds=args.seconds, threads=args.threads))
