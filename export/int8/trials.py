"""What a layer in float costs and gives: accuracy, error and time of trial files."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from ssd_edge.card import INT8_METADATA_KEY, ONNX_METADATA_KEY, ModelCard
from ssd_edge.data.dataset import DetectionDataset
from ssd_edge.evaluation.evaluate import evaluate
from ssd_edge.export.fp16.emulate import emulated_half
from ssd_edge.export.int8.options import Int8Options
from ssd_edge.export.int8.placement import Placement
from ssd_edge.images import load_image
from ssd_edge.picks import spread_evenly
from ssd_edge.runtime.backends.onnxruntime import OnnxDetector
from ssd_edge.runtime.backends.ort_session import open_session
from ssd_edge.runtime.preprocess import preprocess

ERROR_IMAGES = 8  # that a layer's sensitivity is measured on
TIMED_RUNS = 15


def emulated(model: onnx.ModelProto, target: str) -> onnx.ModelProto:
    """What computes on the CPU as the file does where it is meant to run: each half tensor rounded."""
    return model if target == "cpu" else emulated_half(model)


def ap_of(card: ModelCard, data: DetectionDataset, options: Int8Options) -> Callable[[onnx.ModelProto], float]:
    """Measures a model's AP by way of a file, as every other measurement does."""

    def ap(model: onnx.ModelProto) -> float:
        whole = onnx.ModelProto()
        whole.CopyFrom(model)
        metadata = {ONNX_METADATA_KEY: replace(card, precision="int8").to_json()}
        onnx.helper.set_model_props(whole, metadata | {INT8_METADATA_KEY: json.dumps({"target": options.target})})
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trial.onnx"
            path.write_bytes(whole.SerializeToString())
            with OnnxDetector(path, threads=options.threads) as detector:
                return float(evaluate(detector, data, progress=options.progress).metrics["AP"])

    return ap


def error_images(data: DetectionDataset, card: ModelCard) -> NDArray[np.uint8]:
    """Images spread over the data, uint8 [n, height, width, 3]."""
    records = spread_evenly(data.records, ERROR_IMAGES)
    return np.stack([preprocess(load_image(record.path), (card.height, card.width)) for record in records])


def error_of(
    placement: Placement, images: NDArray[np.uint8], threads: int | None
) -> Callable[[Collection[str]], float]:
    """Mean squared error of the outputs against the float model's: of log-odds, and of boxes in units of their spread.

    Log-odds, for a score near 0 or 1 hides how far a logit moved.
    """

    def outputs(model: onnx.ModelProto) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        session = open_session(model.SerializeToString(), threads=threads)
        results = [session.run(["boxes", "scores"], {"images": image[None]}) for image in images]
        boxes, scores = (np.concatenate(part).astype(np.float64) for part in zip(*results, strict=True))
        scores = scores.clip(1e-6, 1 - 1e-6)
        return boxes, np.log(scores / (1 - scores))

    boxes, log_odds = outputs(placement.graph)

    def error(kept: Collection[str]) -> float:
        got_boxes, got_log_odds = outputs(placement.place(kept))
        of_boxes = np.mean((got_boxes - boxes) ** 2) / (boxes.var() or 1.0)
        return float(of_boxes + np.mean((got_log_odds - log_odds) ** 2) / (log_odds.var() or 1.0))

    return error


class RelativeTime:
    """Times a model against the one with every layer in int8, in turns, so that a busy machine slows both."""

    def __init__(self, placement: Placement, image: NDArray[np.uint8], threads: int | None) -> None:
        self._placement, self._image, self._threads = placement, image, threads
        self._all_int8 = open_session(placement.place().SerializeToString(), threads=threads)

    def __call__(self, kept: Collection[str]) -> float:
        if not kept:
            return 1.0
        trial = open_session(self._placement.place(kept).SerializeToString(), threads=self._threads)
        sessions = self._all_int8, trial
        seconds: list[list[float]] = [[], []]
        for _ in range(TIMED_RUNS + 1):
            for session, of_session in zip(sessions, seconds, strict=True):
                begin = time.perf_counter()
                session.run(None, {"images": self._image})
                of_session.append(time.perf_counter() - begin)
        base, given_back = (float(np.median(of_session[1:])) for of_session in seconds)
        return given_back / base


def arithmetic(placement: Placement) -> Callable[[Collection[str]], float]:
    """Work relative to that with all layers in int8 that can be.

    An estimate for where no GPU is at hand: it knows nothing of memory, nor of what reformatting costs.
    """
    whole = placement.work() or 1
    return lambda kept: placement.work(kept) / whole
