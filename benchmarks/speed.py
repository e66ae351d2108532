"""Frame to detections: ssd-edge (ONNX Runtime) against torchvision's own model, same weights, frames and run.

    python -m benchmarks.speed runs/coco90/best.pt --video ../shared/data/video/vtest.avi -o benchmarks/speed.json

Both run with the same number of threads, each in a process of its own, in turns of a few frames, so that drift of the
machine hits both alike.
Decoding and drawing are not counted. Two thresholds: 0.001, torchvision's own, and 0.4, the stream's.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.models.detection import ssd300_vgg16, ssdlite320_mobilenet_v3_large

from benchmarks.report import report
from ssd_edge.checkpoint import load_checkpoint
from ssd_edge.export.onnx_export import export_onnx
from ssd_edge.runtime.backends.base import Detector
from ssd_edge.runtime.detector import open_detector

TORCHVISION = {"ssd300_vgg16": ssd300_vgg16, "ssdlite320_mobilenet_v3_large": ssdlite320_mobilenet_v3_large}
THRESHOLDS = (0.001, 0.4)
TURN = 20  # frames before the other one's turn
Frame = NDArray[np.uint8]


def read_frames(video: Path, count: int) -> list[Frame]:
    """The first frames of a video, uint8 [H, W, 3] BGR."""
    capture = cv2.VideoCapture(str(video))
    frames: list[Frame] = []
    while len(frames) < count and (read := capture.read())[0]:
        frames.append(read[1])
    if not frames:
        raise SystemExit(f"no frames in {video}")
    return frames


def torchvision_model(checkpoint: Path, score_threshold: float) -> torch.nn.Module:
    """torchvision's own model with the checkpoint's weights."""
    loaded = load_checkpoint(checkpoint)
    make = TORCHVISION[loaded.card.arch]
    classes = len(loaded.card.class_names) + 1
    model: torch.nn.Module = make(
        weights=None, weights_backbone=None, num_classes=classes, score_thresh=score_threshold
    )
    model.load_state_dict(loaded.state_dict)
    return model.eval()


@torch.inference_mode()
def time_torchvision(model: torch.nn.Module, frames: list[Frame]) -> list[tuple[float, ...]]:
    """(milliseconds,) a frame, from the BGR frame to the detections."""
    times: list[tuple[float, ...]] = []
    for frame in frames:
        begin = time.perf_counter()
        rgb = torch.from_numpy(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)).permute(2, 0, 1)
        model([rgb.float() / 255])
        times.append((1e3 * (time.perf_counter() - begin),))
    return times


def time_detector(detector: Detector, frames: list[Frame]) -> list[tuple[float, ...]]:
    """(milliseconds in all, in the network, detections) a frame, from the BGR frame to the detections."""
    times: list[tuple[float, ...]] = []
    for frame in frames:
        begin = time.perf_counter()
        (found,) = detector([frame])
        times.append((1e3 * (time.perf_counter() - begin), detector.timings.infer_ms, len(found)))
    return times


def serve(pipe: Connection, peer: str, model: Path, threshold: float, threads: int, frames: list[Frame]) -> None:
    """Time frames on request: receives (start, stop), None at the end. A process of its own for each of the two.

    In one process the threads of PyTorch and ONNX Runtime slow each other down, which no user of either would see.
    """
    cv2.setNumThreads(threads)
    if peer == "torchvision":
        torch.set_num_threads(threads)
        run = partial(time_torchvision, torchvision_model(model, threshold))
    else:
        detector = open_detector(model, threads=threads, score_threshold=threshold, spin=True)  # as PyTorch's do
        run = partial(time_detector, detector)
    run(frames[:TURN])  # warm up
    while part := pipe.recv():
        pipe.send(run(frames[slice(*part)]))


def compare(checkpoint: Path, onnx: Path, frames: list[Frame], threshold: float, threads: int) -> dict[str, Any]:
    """Medians in milliseconds, and the ratio of the medians."""
    context = multiprocessing.get_context("spawn")
    pipes = {}
    for peer, model in (("torchvision", checkpoint), ("ssd-edge", onnx)):
        pipes[peer], theirs = context.Pipe()
        context.Process(target=serve, args=(theirs, peer, model, threshold, threads, frames), daemon=True).start()
    times: dict[str, list[tuple[float, ...]]] = {peer: [] for peer in pipes}
    for start in range(0, len(frames), TURN):
        for peer, pipe in pipes.items():
            pipe.send((start, start + TURN))
            times[peer] += pipe.recv()
    for pipe in pipes.values():
        pipe.send(None)
    (reference,) = np.array(times["torchvision"]).T
    total, network, detections = np.array(times["ssd-edge"]).T
    return {
        "score_threshold": threshold,
        "detections_a_frame": float(np.mean(detections)),
        "torchvision_ms": float(np.median(reference)),
        "ssd_edge_ms": float(np.median(total)),
        "network_ms": float(np.median(network)),
        "around_the_network_ms": float(np.median(total - network)),
        "times_as_fast": float(np.median(reference) / np.median(total)),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--video", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, help="write the figures here as JSON")
    args = parser.parse_args()
    card = load_checkpoint(args.checkpoint).card
    frames = read_frames(args.video, args.frames)
    with tempfile.TemporaryDirectory() as folder:
        onnx = Path(folder) / "model.onnx"
        export_onnx(args.checkpoint, onnx)
        results = [compare(args.checkpoint, onnx, frames, threshold, args.threads) for threshold in THRESHOLDS]
    figures = {
        "threads": args.threads,
        "model": f"{card.arch}, {len(card.class_names)} classes and background",
        "video": f"{args.video.name}, {len(frames)} frames of {frames[0].shape[1]}×{frames[0].shape[0]}",
        "results": results,
    }
    report(figures, args.output)


if __name__ == "__main__":
    main()
