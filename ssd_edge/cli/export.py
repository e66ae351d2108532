"""`ssd-edge export`: write the ONNX file of a checkpoint, compared with PyTorch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ssd_edge.choices import CALIBRATION_IMAGES, DEFAULT_METHOD, DEFAULT_TARGET, METHODS, PRECISIONS, TARGETS
from ssd_edge.cli.arguments import (
    INT8_HEADS_ON_CPU,
    add_split,
    add_threads,
    flag,
    given,
    positive_int,
    usable_dataset,
    whole_number,
)
from ssd_edge.errors import UsageError

if TYPE_CHECKING:
    from ssd_edge.data.dataset import DetectionDataset
    from ssd_edge.export.int8.options import Int8Options

SUMMARY = "write the ONNX file of a checkpoint, compared with PyTorch"

INT8_OPTIONS = (
    *("calib", "calib_split", "images", "seed", "target", "int8_heads", "method", "table", "max_drop", "qat"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="CHECKPOINT", help="what `train` or `import` wrote; or an fp32 .onnx")
    add("-o", "--output", type=Path, required=True, metavar="FILE", help="the .onnx file")
    add("--precision", choices=PRECISIONS, default="fp32", help="of weights and activations (%(default)s)")
    add("--data", type=Path, help="dataset to compare with PyTorch on (synthetic scenes), and for --max-drop")
    add_split(parser)
    int8 = parser.add_argument_group("int8")
    add = int8.add_argument
    add("--calib", type=Path, metavar="DATA", help="images to calibrate on: a dataset, or a folder without labels")
    add("--calib-split", metavar="SPLIT", help="part of that dataset (train, where there is one)")
    add("--images", type=positive_int, metavar="N", help=f"choose N of them ({CALIBRATION_IMAGES})")
    add("--seed", type=whole_number, help="another seed chooses other ones (0)")
    add("--target", choices=TARGETS, help=f"whose kernels it is for ({DEFAULT_TARGET})")
    heads_help = "with --target tensorrt: quantise the heads' convolutions too (they stay half)"
    add("--int8-heads", action="store_true", default=None, help=heads_help)
    add("--method", choices=METHODS, help=f"how ranges follow from activations ({DEFAULT_METHOD})")
    add("--table", type=Path, metavar="FILE", help="keep the ranges in this JSON file, and use them again")
    drop_help = "leave layers in float until no more mAP is lost on --data: 1%% of the checkpoint's, or 0.005"
    add("--max-drop", metavar="DROP", help=drop_help)
    qat_help = "where that costs more than a fifth of the speed, fine-tune N epochs on --calib"
    add("--qat", type=positive_int, metavar="N", help=qat_help)
    add_threads(parser)


def run(args: argparse.Namespace) -> None:
    _check(args)
    from ssd_edge.export.onnx_export import export_onnx

    data = usable_dataset(args) if args.data else None
    int8 = _int8_options(args, data) if args.precision == "int8" else None
    print(export_onnx(args.checkpoint, args.output, precision=args.precision, data=data, int8=int8))


def _check(args: argparse.Namespace) -> None:
    """Refuse options that do not go together, before the long work.

    Raises:
        UsageError: with the fix.
    """
    if args.precision != "int8" and (options := given(args, *INT8_OPTIONS)):
        names = ", ".join(map(flag, options))
        raise UsageError(f"{names}: about int8 alone; give --precision int8 too, or leave it out")
    if args.precision == "int8" and args.calib is None:
        raise UsageError("int8 needs images to calibrate on, a dataset or any folder of images; give --calib DATA")
    if args.max_drop and args.data is None:
        raise UsageError("--max-drop needs labelled images to measure mAP on; give --data VALIDATION")
    if args.qat and not args.max_drop:
        raise UsageError("--qat is for where a bound fails; give --max-drop too")
    if args.int8_heads and args.target == "cpu":
        raise UsageError(INT8_HEADS_ON_CPU)


def _int8_options(args: argparse.Namespace, validation: DetectionDataset | None) -> Int8Options:
    from ssd_edge.calib.images import calibration_images
    from ssd_edge.calib.table import CalibrationSettings
    from ssd_edge.export.int8.options import Int8Options, QatOptions
    from ssd_edge.parity.max_drop import MaxDrop

    max_drop = MaxDrop.parse(args.max_drop) if args.max_drop else None  # before the long work
    qat = None
    if args.qat:
        from ssd_edge.data.lint import lint
        from ssd_edge.data.readers import find_split, list_splits, read_dataset

        split = args.calib_split or find_split(list_splits(args.calib), "train")  # as for the calibration images
        qat = QatOptions(args.qat, lint(read_dataset(args.calib, split))[0])
    settings = CalibrationSettings(**given(args, "seed"))
    count = args.images or CALIBRATION_IMAGES
    return Int8Options(
        calibration_images(args.calib, count, split=args.calib_split, seed=settings.seed),
        settings=settings,
        max_drop=max_drop,
        validation=validation,
        qat=qat,
        threads=args.threads,
        **given(args, "target", "method", "int8_heads", "table"),
    )
