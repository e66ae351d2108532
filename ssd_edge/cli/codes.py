"""`ssd-edge codes`: write synthetic scenes of printed codes: a COCO dataset or a video."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssd_edge.cli.arguments import positive_int, positive_number, size_hw, whole_number
from ssd_edge.errors import UsageError

SUMMARY = "write synthetic scenes of printed codes: a COCO dataset or a video"

CODES_FPS = 30.0
# Names that ask for a file that `codes` does not write; any other dot belongs to a folder's name.
OTHER_FILE_SUFFIXES = (".avi", ".gif", ".gz", ".json", ".mkv", ".mov", ".tar", ".webm", ".zip")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-o", "--output", type=Path, required=True, metavar="PATH", help="folder for a COCO dataset, or FILE.mp4")
    add("--count", type=positive_int, default=1000, help="scenes in the dataset (%(default)s)")
    add("--seconds", type=positive_number, default=10.0, help="length of the video (%(default)g)")
    add("--seed", type=whole_number, default=0, help="another seed gives other scenes (%(default)s)")
    add("--size", type=size_hw, metavar="WxH", help="frame size, such as 640x480 (dataset: all sizes)")


def run(args: argparse.Namespace) -> None:
    from ssd_edge.data.codes.write import write_coco, write_video

    suffix = args.output.suffix.lower()
    if suffix == ".mp4":
        size = {"size_hw": args.size} if args.size else {}
        write_video(args.output, seconds=args.seconds, fps=CODES_FPS, seed=args.seed, **size)
    elif suffix in OTHER_FILE_SUFFIXES:
        raise UsageError(f"{args.output} is the name of a {suffix} file; give a folder, or a name that ends in .mp4")
    else:
        write_coco(args.output, count=args.count, seed=args.seed, size_hw=args.size)
    print(args.output)
