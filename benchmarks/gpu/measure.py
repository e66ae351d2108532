"""The GPU's pipeline on the GPU at hand: does it run, is it right, how fast is it. One command, a table and JSON.

    python -m benchmarks.gpu.measure -o benchmarks/gpu.json
    python -m benchmarks.gpu.measure --map bundled ../shared/data/codes_photos all --sections correctness -o …
    python -m benchmarks.gpu.measure --dry-run

Needs cuda-core. What needs more is recorded as `not_run`, with the package's name, where that is absent: torch for
SSD300 and the peers, TensorRT for engines, onnx for other precisions, pycocotools for mAP. SSDlite is the bundled model
and SSD300 has random weights, unless others are given; NMS then gets about as much to do as from a trained model.

Each section stands alone: what fails is recorded with its message, and the others go on, until the GPU itself is lost.
The file is written after every row. Times are medians of `--runs` rounds, in every one of which each contender runs
once. Rows called fp32 are TF32 on GPUs that have it (compute capability 8.0 and later): in TensorRT, and in PyTorch
where the figures say that cuDNN may.
"""

from __future__ import annotations

import argparse
import tempfile
import traceback
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.correctness import correctness, tensorrt
from benchmarks.gpu.dry_run import dry_run
from benchmarks.gpu.inputs import make_inputs
from benchmarks.gpu.record import Row, Rows, is_absence, is_lost, reason, write_figures
from benchmarks.gpu.speed import end_to_end, hardware_floor, preprocessing, suppression, whole_graph
from ssd_edge.errors import MissingDependencyError, UsageError
from ssd_edge.machine import describe_machine
from ssd_edge.packages import is_installed
from ssd_edge.runtime.cuda.errors import CudaError
from ssd_edge.runtime.cuda.find import open_cuda

SECTIONS: dict[str, Callable[[Bench, list[Row]], None]] = {
    "tensorrt": tensorrt,
    "correctness": correctness,
    "suppression": suppression,
    "preprocess": preprocessing,
    "whole_graph": whole_graph,
    "end_to_end": end_to_end,
    "hardware_floor": hardware_floor,
}


def run_sections(bench: Bench, names: list[str], figures: dict[str, Any], output: Path | None) -> None:
    """Fill `figures` section by section; what there is, is kept after each row, until the GPU is lost."""
    for name in names:
        print(f"\n## {name}", flush=True)
        rows = Rows(lambda: write_figures(figures, output))
        figures[name] = rows
        try:
            SECTIONS[name](bench, rows)
        except Exception as error:
            if is_lost(error):
                rows.append({"failed": f"the GPU is lost: {type(error).__name__}: {error}"})
                traceback.print_exc()
                break
            if not is_absence(error):
                traceback.print_exc()
            rows.append(reason(error))
        rows.keep()


def print_table(figures: dict[str, Any]) -> None:
    """A line a row: names and figures."""
    for name, rows in figures.items():
        print(f"\n## {name}")
        for row in rows if isinstance(rows, list) else [rows]:
            if isinstance(row, dict):
                print("  " + "  ".join(f"{key} {_short(value)}" for key, value in row.items()))


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_short(item)}" for key, item in value.items()) + "}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def versions() -> dict[str, str | bool | None]:
    """Of CUDA's packages and TensorRT, and PyTorch's own CUDA."""
    found: dict[str, str | bool | None] = {
        dist.name: dist.version
        for dist in distributions()
        if dist.name.startswith(("cuda-", "cuda_", "tensorrt", "pycuda", "nvidia-cuda-nvrtc"))
    }
    if is_installed("torch"):
        import torch

        found |= {
            "CUDA of PyTorch": torch.version.cuda,
            "cuDNN": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
            "torch.backends.cudnn.allow_tf32": torch.backends.cudnn.allow_tf32,
        }
    return found


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--ssdlite", type=Path, help="checkpoint or ONNX file of an SSDlite320 (default: bundled)")
    parser.add_argument(
        "--ssd300", type=Path, help="checkpoint or ONNX file of an SSD300-VGG16 (default: random, 90 classes)"
    )
    parser.add_argument(
        "--onnx", type=Path, nargs="*", default=[], metavar="FILE", help="further ONNX files to build and run"
    )
    parser.add_argument(
        *("--map", "-m"),
        nargs=3,
        action="append",
        default=[],
        metavar=("MODEL", "DATA", "SPLIT"),
        help="compare mAP: a .pt, an .onnx or `bundled`, a dataset, and its split or `all`; may be repeated",
    )
    parser.add_argument("--frame", type=Path, help="image to detect in (default: a synthetic one with four QR codes)")
    parser.add_argument("--runs", type=int, default=200, help="rounds per median (default: 200)")
    parser.add_argument(
        "--sections",
        nargs="*",
        choices=SECTIONS,
        default=list(SECTIONS),
        help="(default: all); engines are measured only along with tensorrt, which builds them",
    )
    parser.add_argument(
        "--quick", action="store_true", help="10 rounds, batch 1, no torch.compile: does it work at all"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="prepare everything that needs no GPU, and say what cannot be prepared"
    )
    parser.add_argument("-o", "--output", type=Path, help="write the figures here as JSON")
    return parser


def main() -> None:
    """Command line."""
    parser = make_parser()
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        try:
            inputs = make_inputs(args, Path(name))
            if args.dry_run:
                raise SystemExit(dry_run(inputs, args.sections))
            opened = open_cuda()
        except (CudaError, MissingDependencyError, UsageError) as error:
            parser.exit(1, f"{error}\n")
        with opened as cuda:
            bench = Bench(**vars(inputs), cuda=cuda)
            figures: dict[str, Any] = {
                "machine": describe_machine(),
                "gpu": str(cuda.gpu),
                "versions": versions(),
                "runs": bench.runs,
                "weights": {arch: model.weights for arch, model in bench.models.items()},
                "absent": bench.absent,
            }
            run_sections(bench, args.sections, figures, args.output)
            print_table(figures)
    failed = sum("failed" in row for section in args.sections for row in figures.get(section, []))
    if failed:
        parser.exit(1, f"{failed} measurements failed; they are in the figures, word for word\n")


if __name__ == "__main__":
    main()
