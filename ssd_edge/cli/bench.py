"""`ssd-edge bench`: measure accuracy, FPS, latency, size, memory and power of models side by side."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssd_edge.bench.options import BenchOptions
from ssd_edge.choices import BACKENDS, TARGETS
from ssd_edge.cli.arguments import (
    DATA_HELP,
    INT8_HEADS_ON_CPU,
    add_json,
    add_split,
    add_threads,
    positive_int,
    positive_number,
    score,
    usable_dataset,
    whole_number,
)
from ssd_edge.errors import UsageError

SUMMARY = "measure accuracy, FPS, latency, size, memory and power of models side by side"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("models", type=Path, nargs="+", metavar="MODEL", help="checkpoint (.pt, .safetensors), .onnx or .engine")
    add("--data", type=Path, required=True, help=DATA_HELP)
    add_split(parser)
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--seconds", type=positive_number, default=BenchOptions.seconds, help="of timing, a model (%(default)g)"
    )
    length.add_argument("--runs", type=positive_int, metavar="N", help="time N calls of each model instead")
    add("--batch", type=positive_int, default=BenchOptions.batch, help="frames a call (%(default)s)")
    add(
        "--warmup",
        type=whole_number,
        default=BenchOptions.warmup,
        metavar="N",
        help="calls before that, not counted (%(default)s)",
    )
    add_threads(parser)
    spin_help = "threads wait for each other at full speed: fastest where nothing else needs the cores (no)"
    add("--spin", action=argparse.BooleanOptionalAction, default=BenchOptions.spin, help=spin_help)
    add("--score", type=score, help="time with detections above this (each model's own threshold)")
    add("--accuracy", action=argparse.BooleanOptionalAction, default=BenchOptions.accuracy, help="measure AP too (yes)")
    add("--device", help="where checkpoints run: cpu, cuda, cuda:1 (CUDA where there is one)")
    add(
        "--backend",
        choices=BACKENDS,
        default=BenchOptions.backend,
        help="what runs .onnx files (TensorRT where there is a GPU)",
    )
    add("--precisions", metavar="P,P", help="export checkpoints as some of torch, fp32, fp16, int8 first")
    add("--calib", type=Path, metavar="DATA", help="with int8: images to calibrate on")
    add("--target", choices=sorted(TARGETS), help="with int8: what the files are for (cpu)")
    add("--int8-heads", action="store_true", help="with --target tensorrt: quantise the heads too")
    add("--keep", type=Path, metavar="DIR", help="with --precisions: keep the exported files here")
    add_json(parser)
    add("--markdown", type=Path, metavar="FILE", help="write the table as Markdown too")
    add("--plot", type=Path, metavar="FILE", help="draw accuracy against FPS, a PNG")


def run(args: argparse.Namespace) -> None:
    from ssd_edge.bench.measure import bench, check_models
    from ssd_edge.bench.outputs import Outputs
    from ssd_edge.bench.precisions import CalibrationChoice, PrecisionOptions, in_precisions

    if args.plot and not args.accuracy:
        raise UsageError("--plot draws accuracy against speed; leave out --no-accuracy")
    if not args.precisions and (args.calib or args.target or args.int8_heads or args.keep):
        raise UsageError(
            "--calib, --target, --int8-heads and --keep are about exports; give --precisions fp32,int8 too"
        )
    target = args.target or "cpu"
    if args.int8_heads and target == "cpu":
        raise UsageError(INT8_HEADS_ON_CPU)
    options = BenchOptions(
        seconds=args.seconds,
        runs=args.runs,
        batch=args.batch,
        warmup=args.warmup,
        threads=args.threads,
        spin=args.spin,
        score_threshold=args.score,
        device=args.device,
        backend=args.backend,
        accuracy=args.accuracy,
    )
    precisions = None
    if args.precisions:
        int8 = CalibrationChoice(args.calib, target, int8_heads=args.int8_heads) if args.calib else None
        precisions = PrecisionOptions(tuple(args.precisions.split(",")), int8, args.keep)
    outputs = Outputs(args.json, args.markdown, args.plot)
    outputs.check()  # before the long work
    check_models(args.models)
    dataset = usable_dataset(args)
    with in_precisions(args.models, precisions, data=dataset) as models:
        report = bench(models, dataset, options)
    print(report.table())
    outputs.write(report)
    report.check()
