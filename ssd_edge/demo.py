"""The whole line in one call, offline: render codes in motion, stream them, score against what was rendered."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssd_edge.choices import SHOWN_SCORE
from ssd_edge.data.codes.write import write_video
from ssd_edge.data.readers import read_dataset
from ssd_edge.detections import Detections
from ssd_edge.evaluation.evaluate import Evaluation, evaluate_detections
from ssd_edge.runtime.detector import open_detector
from ssd_edge.runtime.overlay import draw
from ssd_edge.runtime.results import Result
from ssd_edge.runtime.sinks.video_opencv import VideoSink
from ssd_edge.runtime.sources.find import open_source
from ssd_edge.runtime.stats import StreamStats
from ssd_edge.runtime.stream.config import StreamConfig
from ssd_edge.runtime.stream.run import run_stream

FPS = 30.0
SEED = 0
SCORED_FROM = 0.01  # for mAP, whose curves need the unsure detections too


@dataclass(frozen=True)
class DemoReport:
    """What the demo measured and wrote.

    Attributes:
        stats: of the stream: decoding, detection, drawing and writing of both outputs.
        evaluation: the detections scored against the rendered boxes.
        video, annotated, detections: the rendered video, the same with boxes drawn, and the JSON lines.
    """

    stats: StreamStats
    evaluation: Evaluation
    video: Path
    annotated: Path
    detections: Path

    def __str__(self) -> str:
        metrics = self.evaluation.metrics
        p50, p95, _ = self.stats.latency_ms
        return (
            f"{self.stats.frames} frames at {self.stats.fps:.1f} FPS, decoding, drawing and writing included; "
            f"detection takes {p50:.1f} ms (p95 {p95:.1f})\n"
            f"mAP {metrics['AP']:.3f}, at IoU 0.50 {metrics['AP50']:.3f}, against the rendered boxes\n"
            f"video       {self.video}\nannotated   {self.annotated}\ndetections  {self.detections}"
        )


class ConfidentVideoSink(VideoSink):
    """An annotated video that shows the sure detections only; the JSON lines have all."""

    needs_drawing = False  # it draws itself

    def write(self, result: Result, drawn_bgr: NDArray[np.uint8]) -> None:
        shown = result.detections.above(SHOWN_SCORE)
        super().write(result, draw(result.frame.image_bgr, shown, result.class_names))


def run_demo(output: Path, *, model: Path, seconds: float, threads: int | None = None) -> DemoReport:
    """Render `codes.mp4`, stream it through `model`, write `annotated.mp4` and `detections.jsonl`, score them.

    Args:
        output: folder for the files; those of an earlier demo are replaced.

    Raises:
        ModelFileError: as `open_detector`.
        DatasetError: the model knows none of the classes.
        SinkError: the folder cannot be written to.
        KeyboardInterrupt: the stream was interrupted; what it has written is kept, and complete.
    """
    video, annotated, detections = (output / name for name in ("codes.mp4", "annotated.mp4", "detections.jsonl"))
    with open_detector(model) as detector:  # first, so that a wrong model shows before the rendering
        class_names = detector.card.class_names
    write_video(video, seconds=seconds, fps=FPS, seed=SEED)
    with open_source(video) as source:
        sink = ConfidentVideoSink(annotated, source)
    config = StreamConfig(video, model, jsonl=str(detections), score_threshold=SCORED_FROM, threads=threads)
    stats = run_stream(config, extra_sinks=[sink])
    truth = read_dataset(video.with_suffix(".json"))
    if stats.frames < len(truth):  # a stream of a file ends early only when a signal asked it to
        raise KeyboardInterrupt
    found = read_jsonl(detections)
    return DemoReport(
        stats=stats,
        evaluation=evaluate_detections(found, truth, class_names),
        video=video,
        annotated=annotated,
        detections=detections,
    )


def read_jsonl(path: Path) -> list[Detections]:
    """The detections that a stream wrote as JSON lines, one entry a frame."""
    frames = []
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            found = json.loads(line)["detections"]
            frames.append(
                Detections(
                    np.array([one["box_xyxy"] for one in found], np.float32).reshape(-1, 4),
                    np.array([one["score"] for one in found], np.float32),
                    np.array([one["label"] for one in found], np.int64),
                )
            )
    return frames
