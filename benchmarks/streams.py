"""Four 1280×720 sources beside the bare network, in turns: frames a second; and the age of a live one's frames.

python -m benchmarks.streams int8.onnx --video DATA/video/vtest.avi -o benchmarks/streams.json
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.report import report
from ssd_edge.runtime.backends.base import Detector
from ssd_edge.runtime.detector import open_detector
from ssd_edge.runtime.sources.base import Frame, Place, Source, SourceOptions
from ssd_edge.runtime.sources.find import open_source
from ssd_edge.runtime.stream.config import SourceConfig, StreamConfig
from ssd_edge.runtime.stream.run import run_stream

SIZE_WH = (1280, 720)
SOURCES, FPS = 4, 30.0
FRAMES = 300  # of each source's video
SCORE = 0.4
TOGETHER = "network, one batch at a time on all threads"
APART = "network, one batch a thread"


class DecodedSource(Source):
    """Frames that are decoded already, for so many seconds: what is left is what the stream itself costs."""

    def __init__(self, images: list[NDArray[np.uint8]], seconds: float) -> None:
        self.name = "decoded"
        self._images, self._seconds = images, seconds

    def frames(self) -> Iterator[Frame]:
        end, index = time.monotonic() + self._seconds, 0
        while time.monotonic() < end:
            yield Frame(self._images[index % len(self._images)], index, time.monotonic(), self.name)
            index += 1

    def close(self) -> None:
        pass


def make_video(source: Path, path: Path) -> list[NDArray[np.uint8]]:
    """Write `FRAMES` frames of a video at `SIZE_WH` as MPEG-4, OpenCV's own encoder; returns some as they are read."""
    reader = cv2.VideoCapture(str(source))
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, SIZE_WH)
    for _ in range(FRAMES):
        ok, image = reader.read()
        if not ok:
            reader.set(cv2.CAP_PROP_POS_FRAMES, 0)
            ok, image = reader.read()
        writer.write(cv2.resize(image, SIZE_WH))
    writer.release()
    with open_source(path) as made:
        return [frame.image_bgr for frame, _ in zip(made.frames(), range(30), strict=False)]


def network_fps(detector: Detector, batch: int, seconds: float) -> float:
    """Frames a second of the network alone, through all of the detector's slots."""
    images = np.zeros((batch, detector.card.height, detector.card.width, 3), np.uint8)
    begin = time.perf_counter()

    def run() -> int:
        frames = 0
        while time.perf_counter() - begin < seconds:
            detector.infer(images)
            frames += batch
        return frames

    with ThreadPoolExecutor(detector.slots) as pool:
        frames = sum(future.result() for future in [pool.submit(run) for _ in range(detector.slots)])
        return frames / (time.perf_counter() - begin)


def decoding_ms(video: Path) -> float:
    """Time of a processor that a frame's decoding takes."""
    with open_source(video) as source:
        begin = time.process_time()
        frames = sum(1 for _ in source.frames())
        return 1e3 * (time.process_time() - begin) / frames


def streamed_fps(config: StreamConfig) -> float:
    """The sum of frames a second over all sources, without any output."""
    return run_stream(config, progress=False).fps


def live_age(model: Path, video: Path, threads: int, seconds: float) -> dict[str, object]:
    """Age of the frames of one live source, and the bound: a frame interval and one and a half detections."""
    source = SourceConfig(video, options=SourceOptions(realtime=True, fps=FPS), loop=True)
    config = StreamConfig([source], model, score_threshold=SCORE, threads=threads, max_frames=round(seconds * FPS))
    stats = run_stream(config, progress=False)
    return {
        "frames": stats.frames,
        "fps": stats.fps,
        "dropped": stats.dropped,
        "detection_ms_p50_p95_p99": stats.latency_ms,
        "age_ms_p50_p95_p99": stats.age_ms,
        "bound_ms_of_p95": 1e3 / FPS + 1.5 * stats.latency_ms[0],
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("model", type=Path, help="such as SSDlite320 in int8, exported with --target cpu")
    parser.add_argument("--video", type=Path, required=True, help="what the sources show")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each turn")
    parser.add_argument("--live-seconds", type=float, default=60.0)
    parser.add_argument("-o", "--output", type=Path, help="write the figures here as JSON")
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    with (
        tempfile.TemporaryDirectory() as name,
        open_detector(args.model, threads=args.threads, spin=True) as together,
        open_detector(args.model, threads=args.threads, spin=True, parallel=None) as apart,
    ):
        video = Path(name) / "a.mp4"
        images = make_video(args.video, video)

        def stream(*sources: SourceConfig) -> Callable[[], float]:
            config = StreamConfig(sources, args.model, score_threshold=SCORE, threads=args.threads)
            return lambda: streamed_fps(config)

        decoded = SourceConfig(Place("decoded", False, lambda: DecodedSource(images, args.seconds)))
        turns: dict[str, Callable[[], float]] = {
            TOGETHER: lambda: network_fps(together, 1, args.seconds),
            f"{TOGETHER}, batches of {SOURCES}": lambda: network_fps(together, SOURCES, args.seconds),
            APART: lambda: network_fps(apart, 1, args.seconds),
            f"stream of {SOURCES}, decoded before": stream(*[decoded] * SOURCES),
            f"stream of {SOURCES}, decoding": stream(*[SourceConfig(video)] * SOURCES),
        }
        rounds = [{name: turn() for name, turn in turns.items()} for _ in range(args.rounds)]
        figures = {
            "model": {"arch": apart.card.arch, "precision": apart.card.precision},
            "sources": f"{SOURCES} × {SIZE_WH[0]}×{SIZE_WH[1]}, MPEG-4 of {args.video.name}",
            "threads": args.threads,
            "fps": {name: statistics.median(one[name] for one in rounds) for name in turns},
            "share_of_the_bare_network": {
                name: {
                    network: statistics.median(one[name] / one[network] for one in rounds)
                    for network in turns
                    if network.startswith("network")
                }
                for name in turns
                if name.startswith("stream")
            },
            "decoding_ms_a_frame": decoding_ms(video),
            "one_live_source": live_age(args.model, video, args.threads, args.live_seconds),
        }
    report(figures, args.output)


if __name__ == "__main__":
    main()
