"""`ssd-edge import`: take a detector of another project in."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from ssd_edge.choices import FAMILIES
from ssd_edge.cli.arguments import DATA_HELP, add_split, positive_int, probability, score, size_hw, usable_dataset
from ssd_edge.errors import UsageError

if TYPE_CHECKING:
    from ssd_edge.importers.importing import Imported

SUMMARY = "take a detector of another project in"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("files", type=Path, nargs="+", metavar="FILE", help="its weights (.pth, .safetensors), Caffe's two, or .onnx")
    add("-o", "--output", type=Path, required=True, metavar="FILE", help="the checkpoint (.pt); of an .onnx an .onnx")
    add("--family", default="auto", help=f"{', '.join(FAMILIES)}, or auto (%(default)s)")
    add("--classes", metavar="NAMES", help="a file with one name a line, or a,b,c (where known, the family's)")
    add("--mean", type=_three, metavar="R,G,B", help="of RGB in 0–255 units (the family's)")
    add("--std", type=_three, metavar="R,G,B", help="of RGB in 0–255 units (the family's)")
    add("--bgr", action=argparse.BooleanOptionalAction, help="trained on BGR (as the family does)")
    add("--background", choices=("first", "last", "none"), help="where its column is (first)")
    add("--size", type=size_hw, dest="size_hw", metavar="WxH", help="of the network's input (the family's)")
    add("--entry", metavar="KEY", help="entry of the checkpoint that holds the weights (the averaged ones)")
    add("--default-boxes", metavar="B", help="such as ssd300_voc (the family's)")
    add("--score-threshold", type=score, help="(the family's)")
    add("--nms-iou", type=probability, help="(the family's)")
    add("--candidates", type=positive_int, help="best boxes a class that enter the suppression (the family's)")
    add("--detections", type=positive_int, help="most detections an image (the family's)")
    add("--data", type=Path, metavar="DATA", help=f"score mAP at once: {DATA_HELP}")
    add_split(parser)


def run(args: argparse.Namespace) -> None:
    from ssd_edge.importers.family import Facts
    from ssd_edge.importers.labels import parse_classes

    args.class_names = parse_classes(args.classes) if args.classes else None
    facts = Facts(**{field.name: getattr(args, field.name, None) for field in fields(Facts)})
    if args.files[0].suffix == ".onnx":
        from ssd_edge.export.adopt.adopt import adopt

        if len(args.files) > 1:
            raise UsageError(f"{len(args.files)} files; an .onnx file comes alone")
        print(adopt(args.files[0], args.output, facts))
    else:
        _import(args, facts)
    if args.data:
        from ssd_edge.evaluation.evaluate import evaluate
        from ssd_edge.runtime.detector import open_detector

        with open_detector(args.output) as detector:
            print(evaluate(detector, usable_dataset(args)).table())


def _import(args: argparse.Namespace, facts: object) -> None:
    from ssd_edge.checkpoint import Checkpoint, save_checkpoint
    from ssd_edge.importers.family import Facts
    from ssd_edge.importers.importing import import_model

    assert isinstance(facts, Facts)
    if args.output.suffix not in (".pt", ".safetensors"):
        raise UsageError(f"output {args.output} does not end in .pt, by which other commands know the format")
    imported = import_model(args.files, facts, family=None if args.family == "auto" else args.family)
    save_checkpoint(args.output, Checkpoint(imported.card, imported.state_dict))
    for assumption in imported.assumptions:
        print(f"assumed: {assumption}", file=sys.stderr)
    card = imported.card
    size = f"{card.width}×{card.height}"
    print(f"{args.output}: {_origin(imported)}, {size}, classes {', '.join(card.class_names)[:200]}")


def _origin(imported: Imported) -> str:
    """Such as `pytorch-ssd's mb1-ssd`; a family without variants names itself alone."""
    same = imported.family == imported.variant
    return imported.family if same else f"{imported.family}'s {imported.variant}"


def _three(text: str) -> tuple[float, float, float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) == 1:
        values *= 3
    if len(values) != 3:
        raise argparse.ArgumentTypeError(f"{text!r} is not three numbers such as 123,117,104")
    return values[0], values[1], values[2]
