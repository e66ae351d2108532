"""`ssd-edge build`: build the TensorRT engine of an ONNX file, for this machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssd_edge.choices import FLAVOURS
from ssd_edge.cli.arguments import memory_size, whole_number

SUMMARY = "build the TensorRT engine of an ONNX file, for this machine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="what `ssd-edge export` wrote, .onnx")
    add("-o", "--output", type=Path, required=True, metavar="FILE", help="the .engine file; its card is FILE.json")
    add(
        "--batch", default="1", metavar="N", help="batch size; or smallest,optimum,largest such as 1,4,16 (%(default)s)"
    )
    add(
        "--workspace",
        type=memory_size,
        metavar="SIZE",
        help="largest scratch memory, such as 2G or 512M (TensorRT's own)",
    )
    add("--timing-cache", type=Path, metavar="FILE", help="keep measurements of kernels, for faster builds")
    add("--dla", type=whole_number, metavar="CORE", help="run an fp16 file on a DLA core, the rest of it on the GPU")
    add("--tensorrt", choices=FLAVOURS, help="TensorRT or TensorRT-RTX (the first that is installed)")


def run(args: argparse.Namespace) -> None:
    from ssd_edge.export.engine.build import build_engine
    from ssd_edge.runtime.tensorrt.engine_card import BatchSizes

    report = build_engine(
        args.model,
        args.output,
        batch=BatchSizes.parse(args.batch),
        workspace_bytes=args.workspace,
        timing_cache=args.timing_cache,
        dla=args.dla,
        flavour=args.tensorrt,
    )
    print(report)
