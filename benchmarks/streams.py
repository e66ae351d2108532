"""Four 1280×720 H.264 files against the ideal of the same machine, alternately; and the age of a live source's frames.

The ideal is what the cores could do if nothing but decoding and the network took their time: cores ÷ (seconds of a
core per frame of bare decoding + of the bare network), each measured alone, on all cores, in the same round.

python -m benchmarks.streams int8.onnx --video DATA/video/vtest.avi -o benchmarks/streams.json
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.report import report
from ssd_edge.runtime.backends.base import Detector
from ssd_edge.runtime.detector import open_detector
from ssd_edge.runtime.results import Result
from ssd_edge.runtime.sinks.base import Sink
from ssd_edge.runtime.sources.base import SourceOptions
from ssd_edge.runtime.stream.config import SourceConfig, StreamConfig
from ssd_edge.runtime.stream.run import run_stream

SIZE_WH = (1280, 720)
SOURCES, FPS = 4, 30
FRAMES = 600  # of each source's video
SCORE = 0.4


def make_video(source: Path, path: Path, frames: int = FRAMES) -> None:
    """Write frames of a video, over and over, at `SIZE_WH` as H.264, as cameras encode it: without B-frames."""
    capture = cv2.VideoCapture(str(source))
    with av.open(str(path), "w") as container:
        options = {"preset": "veryfast", "bf": "0", "g": "60", "crf": "23"}
        stream = container.add_stream("libx264", rate=FPS, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = *SIZE_WH, "yuv420p"
        for _ in range(frames):
            ok, image = capture.read()
            if not ok:
                capture.set(cv2.CAP_PROP_POS_FRAMES, 0)
                ok, image = capture.read()
            picture = av.VideoFrame.from_ndarray(cv2.resize(image, SIZE_WH), format="bgr24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def core_ms(work: Callable[[], int], threads: int) -> float:
    """Milliseconds of a core per frame, where as many threads as there are cores do this work and nothing else does."""
    begin = time.process_time()
    with ThreadPoolExecutor(threads) as pool:
        frames = sum(future.result() for future in [pool.submit(work) for _ in range(threads)])
    return 1e3 * (time.process_time() - begin) / frames


def decode(video: Path) -> int:
    """Decode a file on one thread, and do nothing with its frames; their number."""
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        return sum(1 for _ in container.decode(stream))


def infer(detector: Detector, seconds: float) -> int:
    """Run the network alone on one blank image, again and again; how often."""
    image = np.zeros((1, detector.card.height, detector.card.width, 3), np.uint8)
    end, frames = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        detector.infer(image)
        frames += 1
    return frames


def streamed_fps(config: StreamConfig) -> float:
    """The sum of frames per second over all sources, without any output."""
    return run_stream(config, progress=False).fps


def one_round(video: Path, model: Path, detector: Detector, threads: int, seconds: float) -> dict[str, float]:
    """Bare decoding, the bare network and the stream, one after the other."""
    decoding_ms = core_ms(lambda: decode(video), threads)
    network_ms = core_ms(lambda: infer(detector, seconds), threads)
    fps = streamed_fps(StreamConfig([SourceConfig(video)] * SOURCES, model, score_threshold=SCORE, threads=threads))
    ideal_fps = 1e3 * threads / (decoding_ms + network_ms)
    return {
        "decoding_ms": decoding_ms,
        "network_ms": network_ms,
        "ideal_fps": ideal_fps,
        "fps": fps,
        "share_of_the_ideal": fps / ideal_fps,
    }


class Ages(Sink):
    """Notes the age of each frame."""

    needs_drawing = needs_pixels = False

    def __init__(self) -> None:
        self.ages_ms: list[float] = []

    def write(self, result: Result, drawn_bgr: NDArray[np.uint8]) -> None:
        self.ages_ms.append(result.age_ms)


def live_age(model: Path, video: Path, threads: int, seconds: float) -> dict[str, object]:
    """Age of the frames of one live source, as a whole and in each tenth of the time."""
    ages, source = Ages(), SourceConfig(video, options=SourceOptions(realtime=True), loop=True)
    config = StreamConfig(
        [source], model, score_threshold=SCORE, threads=threads, max_frames=round(seconds * FPS), latency=True
    )
    stats = run_stream(config, extra_sinks=[ages], progress=False)
    tenths = np.array_split(np.array(ages.ages_ms), 10)
    return {
        "frames": stats.frames,
        "fps": stats.fps,
        "dropped": stats.dropped,
        "detection_ms_p50_p95_p99": stats.latency_ms,
        "age_ms_p95": float(np.percentile(ages.ages_ms, 95)),
        "age_ms_p95_of_each_tenth": [round(float(np.percentile(part, 95)), 2) for part in tenths],
        "bound_ms_of_p95": 25 + stats.latency_ms[0],
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("model", type=Path, help="such as SSDlite320 in int8, exported with --target cpu")
    parser.add_argument("--video", type=Path, required=True, help="what the sources show")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=4.0, help="of the bare network in each round")
    parser.add_argument("--live-seconds", type=float, default=600.0)
    parser.add_argument("-o", "--output", type=Path, help="write the figures here as JSON")
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    with tempfile.TemporaryDirectory() as name, open_detector(args.model, threads=1) as detector:
        video = Path(name) / "a.mp4"
        make_video(args.video, video)
        rounds = [one_round(video, args.model, detector, args.threads, args.seconds) for _ in range(args.rounds)]
        figures = {
            "model": {"arch": detector.card.arch, "precision": detector.card.precision},
            "sources": f"{SOURCES} × {SIZE_WH[0]}×{SIZE_WH[1]}, H.264 of {args.video.name}, {FRAMES} frames each",
            "threads": args.threads,
            "medians": {name: statistics.median(one[name] for one in rounds) for name in rounds[0]},
            "rounds": rounds,
            "one_live_source": live_age(args.model, video, args.threads, args.live_seconds),
        }
    report(figures, args.output)


if __name__ == "__main__":
    main()
