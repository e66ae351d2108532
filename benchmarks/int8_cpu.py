"""Network alone on the CPU, batch 1: fp32 and int8 files in ONNX Runtime and in OpenVINO, in turns in one run.

python -m benchmarks.int8_cpu FP32.onnx INT8.onnx --threads 2 -o benchmarks/int8_cpu_ssd300.json

Each file in each runtime has a process of its own. OpenVINO: pip install openvino; without it, its rows are left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import statistics
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import report

TURN_S = 0.25  # before the next one's turn: the same time for a light network as for a heavy one
REST_S = 0.1  # for the threads of the one before to stop spinning
WARM_UP = 3


def run_onnxruntime(path: str, threads: int) -> Any:
    """A function of an image."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})


def run_openvino(path: str, threads: int) -> Any:
    """A function of an image; batch 1 is made fixed, which OpenVINO is faster with."""
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    _, *shape = (dim for dim in model.input(0).partial_shape)
    model.reshape([1, *(dim.get_length() for dim in shape)])
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    return lambda images: request.infer({"images": images})


RUNTIMES = {"onnxruntime": run_onnxruntime, "openvino": run_openvino}


def serve(pipe: Connection, runtime: str, path: str, threads: int, side: int) -> None:
    """Answer a number of seconds with the milliseconds of each run in them, until None comes."""
    call = RUNTIMES[runtime](path, threads)
    images = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8)
    for _ in range(WARM_UP):
        call(images)
    pipe.send([])
    while (seconds := pipe.recv()) is not None:
        call(images)  # the first one of a turn finds cold caches
        times: list[float] = []
        end = time.perf_counter() + seconds
        while not times or time.perf_counter() < end:
            begin = time.perf_counter()
            call(images)
            times.append(1e3 * (time.perf_counter() - begin))
        pipe.send(times)


def measure(files: dict[str, Path], threads: int, side: int, rounds: int) -> dict[str, list[list[float]]]:
    """Milliseconds by turn, of each file in each runtime."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    for runtime in RUNTIMES:
        if importlib.util.find_spec(runtime) is None:
            continue
        for name, path in files.items():
            ours, theirs = context.Pipe()
            context.Process(target=serve, args=(theirs, runtime, str(path), threads, side), daemon=True).start()
            ours.recv()
            pipes[f"{runtime} {name}"] = ours
    turns: dict[str, list[list[float]]] = {name: [] for name in pipes}
    random = np.random.default_rng(0)
    for _ in range(rounds):
        for name in random.permutation(list(pipes)):
            time.sleep(REST_S)
            pipes[name].send(TURN_S)
            turns[name].append(pipes[name].recv())
    for pipe in pipes.values():
        pipe.send(None)
    return turns


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("fp32", type=Path)
    parser.add_argument("int8", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    from ssd_edge.runtime.detector import open_detector

    with open_detector(args.fp32) as detector:
        card = detector.card
    turns = measure({"fp32": args.fp32, "int8": args.int8}, args.threads, card.height, args.rounds)
    medians = {name: [statistics.median(turn) for turn in of_one] for name, of_one in turns.items()}

    def times_as_fast(name: str, than: str) -> float:
        """Median over the rounds of the ratio in a round."""
        return statistics.median(slow / fast for slow, fast in zip(medians[than], medians[name], strict=True))

    int8, fp32 = "onnxruntime int8", "onnxruntime fp32"
    figures: dict[str, Any] = {
        "model": card.arch,
        "classes": len(card.class_names),
        "threads": args.threads,
        "rounds": args.rounds,
        "median_ms": {name: statistics.median(values) for name, values in medians.items()},
        "least_ms": {name: min(min(turn) for turn in of_one) for name, of_one in turns.items()},
        "int8_times_as_fast_as_fp32": times_as_fast(int8, fp32),
    }
    if "openvino int8" in turns:
        figures["int8_times_as_fast_as_openvino_int8"] = times_as_fast(int8, "openvino int8")
        figures["openvino_int8_times_as_fast_as_its_fp32"] = times_as_fast("openvino int8", "openvino fp32")
    report(figures, args.output)


if __name__ == "__main__":
    main()
