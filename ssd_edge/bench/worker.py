"""The process of one model: opens it, takes turns and scores it when asked, and does nothing in between."""

from __future__ import annotations

import logging
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle, islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ssd_edge.bench.memory import peak_memory_bytes
from ssd_edge.bench.options import BenchOptions
from ssd_edge.bench.turns import Turn, TurnTimes, time_turn
from ssd_edge.card import ModelCard
from ssd_edge.choices import CHECKPOINT_SUFFIXES
from ssd_edge.cpus import let_openmp_spin
from ssd_edge.data.dataset import DetectionDataset
from ssd_edge.errors import SsdEdgeError, first_line
from ssd_edge.images import load_image
from ssd_edge.runtime.backends.base import Detector
from ssd_edge.runtime.detector import open_detector

BACKEND_NAMES = {
    "OnnxDetector": "ONNX Runtime",
    "TorchDetector": "PyTorch",
    "TorchCudaDetector": "PyTorch",
    "TensorRTDetector": "TensorRT",
}


@dataclass(frozen=True)
class Job:
    """What a worker is started with: a model, the frames to time it on (image files) and how."""

    model: Path
    frames: tuple[Path, ...]
    options: BenchOptions


@dataclass(frozen=True)
class Prepared:
    """The file that is measured, and why the GPU of this machine does not run it; None: it does, or there is none."""

    path: Path
    on_cpu: str | None = None


@dataclass(frozen=True)
class Opened:
    """What a worker says once its model is open and warm: the card, what runs it, and the threshold in use."""

    card: ModelCard
    backend: str
    score_threshold: float


@dataclass(frozen=True)
class Accuracy:
    """AP at IoU 0.50:0.95 and at 0.50, fractions (NaN where nothing is scored); notes of the evaluation."""

    ap: float
    ap50: float
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Failure:
    """Instead of an answer: what went wrong, and the traceback where that is no error of the user's."""

    message: str
    trace: str = ""


def serve(pipe: Connection, job: Job) -> None:
    """Answer questions `(name, argument)` from `pipe` until it closes; the first answer is `Opened`.

    Every answer is what was asked for, or a `Failure`, after which the process ends.
    """
    begin_process()
    if job.options.spin:
        let_openmp_spin()
    try:
        with OpenModel(job) as model:
            pipe.send(model.opened)
            answers: dict[str, Callable[[Any], Any]] = {
                "turn": model.turn,
                "peak_memory": lambda _: peak_memory_bytes(),
                "accuracy": model.accuracy,
            }
            while (question := _next_question(pipe)) is not None:
                name, argument = question
                pipe.send(answers[name](argument))
    except Exception as error:
        with suppress(OSError):  # the parent is gone
            pipe.send(failure_of(error))


def _next_question(pipe: Connection) -> tuple[str, Any] | None:
    """None when the parent has what it wanted, or is gone."""
    try:
        question: tuple[str, Any] = pipe.recv()
    except EOFError:
        return None
    return question


class OpenModel:
    """The open model and its frames."""

    def __init__(self, job: Job) -> None:
        self._job = job
        if job.options.threads is not None:
            cv2.setNumThreads(job.options.threads)  # it resizes the frames
        frames = [load_image(path) for path in job.frames]
        self._frames = cycle(frames)
        self._detector = self._open(job.options.score_threshold)
        try:
            for _ in range(job.options.warmup):
                self.call()
        except BaseException:
            self._detector.close()
            raise
        self.opened = Opened(
            self._detector.card, _backend_name(self._detector, self._device()), self._detector.score_threshold
        )

    def turn(self, turn: Turn) -> TurnTimes:
        return time_turn(self.call, turn)

    def accuracy(self, dataset: DetectionDataset) -> Accuracy:
        """Score the model at its card's threshold, whatever it was timed at; it is not timed any more after this."""
        from ssd_edge.evaluation.evaluate import evaluate

        self._detector.close()
        with self._open(None) as detector:
            evaluation = evaluate(detector, dataset, batch=self._job.options.batch)
        return Accuracy(evaluation.metrics["AP"], evaluation.metrics["AP50"], evaluation.notes)

    def _open(self, score_threshold: float | None) -> Detector:
        options = self._job.options
        return open_detector(
            self._job.model,
            threads=options.threads,
            score_threshold=score_threshold,
            spin=options.spin,
            device=self._device(),
        )

    def _device(self) -> str | None:
        """Of a checkpoint; where other files run is their backend's business."""
        if self._job.model.suffix not in CHECKPOINT_SUFFIXES:
            return None
        if self._job.options.device is not None:
            return self._job.options.device
        try:
            from ssd_edge.torch_device import default_device
        except ModuleNotFoundError:  # open_detector says what is missing
            return None
        return default_device()

    def call(self) -> tuple[float, int]:
        """(milliseconds in the network, detections) of one call of the detector."""
        frames: list[NDArray[np.uint8]] = list(islice(self._frames, self._job.options.batch))
        found = self._detector(frames)
        return self._detector.timings.infer_ms, sum(map(len, found))

    def __enter__(self) -> OpenModel:
        return self

    def __exit__(self, *_: object) -> None:
        self._detector.close()


def _backend_name(detector: Detector, device: str | None) -> str:
    kind = type(detector).__name__
    name = BACKEND_NAMES.get(kind, kind.removesuffix("Detector"))
    return f"{name} {device}" if device else name


def failure_of(error: Exception) -> Failure:
    """What went wrong, for the parent."""
    if isinstance(error, SsdEdgeError):
        return Failure(str(error))
    if isinstance(error, MemoryError):
        return Failure("out of memory; use a smaller batch, or measure fewer models at a time")
    return Failure(f"unexpected {type(error).__name__}: {first_line(error)}", traceback.format_exc())


def begin_process() -> None:
    """What every process that is started here does first.

    Ctrl-C reaches the whole group of processes; the parent ends its workers, and they should not speak too.
    """
    logging.basicConfig(format="%(message)s")
    logging.getLogger("ssd_edge").setLevel(logging.INFO)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
