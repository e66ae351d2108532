"""TensorRT-RTX with the bundled model, stage by stage: build, load, run, compare. Its messages are kept word for word.

    python -m benchmarks.gpu.rtx -o rtx.json

Building needs no GPU. On a GPU that TensorRT-RTX does not list, loading is refused, and the refusal is what this
records: no failure, but skipped. Exit status 1: a stage failed, or an engine runs and gives other results than ONNX
Runtime. Needs the `rtx` extra, and onnx for fp16 and int8 unless their files are given.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.models import bundled, synthetic_frame, write_onnx
from benchmarks.gpu.record import Row, Rows, reason, write_figures
from ssd_edge.choices import PRECISIONS
from ssd_edge.errors import MissingDependencyError
from ssd_edge.machine import describe_machine
from ssd_edge.runtime.backends.gpu_detector import GpuDetector
from ssd_edge.runtime.backends.tensorrt import TensorRTEngine
from ssd_edge.runtime.cuda.find import find_gpu, open_cuda
from ssd_edge.runtime.detector import open_detector
from ssd_edge.runtime.preprocess import preprocess
from ssd_edge.runtime.tensorrt.builder import CompileOptions, compile_network, parse_onnx
from ssd_edge.runtime.tensorrt.engine import deserialise
from ssd_edge.runtime.tensorrt.engine_card import BatchSizes
from ssd_edge.runtime.tensorrt.log import UnsupportedGpuError
from ssd_edge.runtime.tensorrt.versions import TensorRT, load_tensorrt

# Of scores: TF32 and half keep 10 bits behind the point. Ranges of int8 are made up, so its results are not judged.
TOLERANCES = {"fp32": 5e-3, "fp16": 2e-2}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument(
        "--onnx",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="ONNX files (default: the bundled model in fp32, fp16, int8)",
    )
    parser.add_argument("--dry-run", action="store_true", help="build engines, and load none")
    parser.add_argument("-o", "--output", type=Path, help="write the outcome of each stage here as JSON")
    args = parser.parse_args()
    figures: dict[str, Any] = {"machine": describe_machine()}
    try:
        trt = load_tensorrt("rtx")
    except MissingDependencyError as error:
        figures["skipped"] = str(error)
        write_figures(figures, args.output)
        print(f"{'dry run: ' if args.dry_run else ''}skipped: {error}")
        return
    gpu = find_gpu()
    figures |= {"tensorrt": str(trt), "gpu": None if gpu is None else str(gpu)}
    rows = Rows(lambda: write_figures(figures, args.output))
    figures["stages"] = rows
    with tempfile.TemporaryDirectory() as folder:
        for precision, find in onnx_files(args.onnx, Path(folder)).items():
            try_stages(rows, trt, precision, find, only_build=args.dry_run)
    refused = [row["failed"] for row in rows if is_refusal(row)]
    if refused:
        figures["skipped"] = refused[0]
    rows.keep()
    failed = [row for row in rows if row.get("ok") is False or ("failed" in row and not is_refusal(row))]
    if args.dry_run:
        print(f"dry run: {len(rows)} stages, {len(failed)} failed; no GPU was opened")
    raise SystemExit(1 if failed else 0)


def is_refusal(row: Row) -> bool:
    """Whether this is the row of an engine that TensorRT-RTX does not load because it does not support the GPU."""
    return str(row.get("failed", "")).startswith(f"{UnsupportedGpuError.__name__}: ")


def onnx_files(given: list[Path] | None, folder: Path) -> dict[str, Callable[[], Path]]:
    """What makes each ONNX file, by precision or by the name of a given file."""
    if given is not None:
        return {path.stem: partial(Path, path) for path in given}
    return {precision: partial(write_onnx, bundled(), precision, folder) for precision in PRECISIONS}


def try_stages(rows: Rows, trt: TensorRT, name: str, find: Callable[[], Path], *, only_build: bool) -> None:
    """Add a row for each stage, up to the first that fails."""
    found: dict[str, Any] = {}

    def onnx() -> Row:
        found["onnx"] = find()
        return {"bytes": found["onnx"].stat().st_size}

    def parse() -> Row:
        found["network"] = parse_onnx(trt, found["onnx"].read_bytes(), source=found["onnx"].name)
        return {"layers": found["network"].definition.num_layers}

    def build() -> Row:
        found["plan"] = compile_network(found["network"], CompileOptions(BatchSizes(1, 1, 1))).plan
        return {"bytes": found["plan"].nbytes}

    def load() -> Row:
        engine = deserialise(trt, found["plan"], source=f"the {name} engine")
        return {"tensors": [str(tensor) for tensor in engine.tensors()], "scratch_bytes": engine.scratch_bytes}

    stages = {"onnx": onnx, "parse": parse, "build": build}
    if not only_build:
        stages |= {"load": load, "run": lambda: run(trt, found["plan"], found["onnx"])}
    for stage, work in stages.items():
        if not record_stage(rows, {"engine": name, "stage": stage}, work):
            break


def record_stage(rows: Rows, about: Row, work: Callable[[], Row]) -> bool:
    """Add the row of a stage with its time and TensorRT's messages; whether it succeeded."""
    begin = time.perf_counter()
    with messages() as said:
        try:
            outcome, done = work(), True
        except Exception as error:
            outcome, done = reason(error), False
    rows.append({**about, **outcome, "seconds": time.perf_counter() - begin, "messages": said})
    print({key: value for key, value in rows[-1].items() if key != "messages"}, flush=True)
    for line in () if done else said:
        print("   ", line, flush=True)
    return done


@contextmanager
def messages() -> Iterator[list[str]]:
    """What TensorRT says meanwhile, INFO and above: our log of its messages, word for word."""
    said: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    log, handler = logging.getLogger("ssd_edge.runtime.tensorrt"), Keep()
    level = log.level
    log.setLevel(logging.DEBUG)
    log.addHandler(handler)
    try:
        yield said
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def run(trt: TensorRT, plan: memoryview, onnx: Path) -> Row:
    """The engine in our pipeline, beside ONNX Runtime with the same file."""
    frame = synthetic_frame()
    with open_detector(onnx) as cpu:
        card = cpu.card
        images = preprocess(frame, (card.height, card.width))[None]
        expected = cpu.infer(images)
    with open_cuda() as cuda:
        engine = TensorRTEngine(trt, plan, card, cuda=cuda, source=f"the engine of {onnx.name}")
        with GpuDetector(engine, card, score_threshold=0.4) as detector:
            got = detector.infer(images)
            for _ in range(3):  # as it comes, captured, replayed
                (found,) = detector([frame])
    row: Row = {
        "largest_difference_of_scores": _largest(got[1], expected[1]),
        "largest_difference_of_boxes": _largest(got[0], expected[0]),
        "detections_above_0.4": len(found),
    }
    tolerance = TOLERANCES.get(card.precision)
    return row if tolerance is None else {**row, "ok": row["largest_difference_of_scores"] <= tolerance}


def _largest(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(np.abs(one - other).max())


if __name__ == "__main__":
    main()
