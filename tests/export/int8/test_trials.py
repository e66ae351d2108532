"""What trials of int8 files measure: accuracy, error, time and work."""

import math
from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from ssd_edge.calib.images import CalibrationImages
from ssd_edge.evaluation.evaluate import evaluate
from ssd_edge.export.fp16.convert import half_from_float
from ssd_edge.export.int8 import trials
from ssd_edge.export.int8.options import Int8Options
from ssd_edge.export.int8.trials import RelativeTime, ap_of, arithmetic, emulated, error_images, error_of
from ssd_edge.images import load_image
from ssd_edge.runtime.backends.onnxruntime import OnnxDetector
from ssd_edge.runtime.preprocess import preprocess
from tests.calib.miniature import SIDE, make_miniature
from tests.detectors.tiny_detector import Tiny
from tests.fakes.clock import Clock


def test_only_what_runs_on_the_cpu_is_tried_as_it_is() -> None:
    half, _ = half_from_float(make_miniature(), [np.zeros((SIDE, SIDE, 3), np.uint8)])
    assert emulated(half, "cpu") is half
    rounding = [node for node in emulated(half, "tensorrt").graph.node if node.op_type == "Cast"]
    assert len(rounding) > len([node for node in half.graph.node if node.op_type == "Cast"])


def test_ap_is_that_of_the_file(tiny: Tiny) -> None:
    options = Int8Options(CalibrationImages((Path("a.png"),)), target="cpu", threads=1, progress=False)
    model = onnx.load(tiny.onnx)
    before = model.SerializeToString()
    with OnnxDetector(tiny.onnx, threads=1) as detector:
        expected = evaluate(detector, tiny.dataset, progress=False).metrics["AP"]
    assert ap_of(tiny.card, tiny.dataset, options)(model) == pytest.approx(expected)
    assert expected > 0
    assert model.SerializeToString() == before


def test_the_error_is_measured_on_images_spread_over_the_data(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "ERROR_IMAGES", 2)
    images = error_images(tiny.dataset, tiny.card)
    records = tiny.dataset.records
    ends = [
        preprocess(load_image(record.path), (tiny.card.height, tiny.card.width))
        for record in records[:: len(records) - 1]
    ]
    np.testing.assert_array_equal(images, ends)


def test_the_error_is_that_of_boxes_in_units_of_their_spread() -> None:
    """A red image: half of the boxes are e where the other half are 1, scores are all the same; in int8 1.1 for 1."""
    red = np.broadcast_to(np.array([255, 0, 0], np.uint8), (1, SIDE, SIDE, 3))
    placement: Any = SimpleNamespace(
        graph=make_miniature(), place=lambda kept: make_miniature(1.0 if "first" in kept else 1.1)
    )
    error = error_of(placement, red, 1)
    assert error(["first"]) == 0
    assert error([]) == pytest.approx(2 * (math.exp(1.1) - math.e) ** 2 / (math.e - 1) ** 2, rel=1e-4)


def test_time_is_relative_to_all_in_int8_and_measured_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    order: list[str] = []

    def place(kept: Collection[str] = ()) -> Any:
        return SimpleNamespace(SerializeToString=lambda: ",".join(kept))

    def open_session(name: str, *, threads: int | None) -> Any:
        def run(*_: object) -> None:
            clock.pass_by(100.0 if name not in order else 3.0 if name else 2.0)  # the first run does not count
            order.append(name)

        return SimpleNamespace(run=run)

    monkeypatch.setattr(trials, "open_session", open_session)
    monkeypatch.setattr(trials, "time", SimpleNamespace(perf_counter=clock))
    placement: Any = SimpleNamespace(place=place)
    relative = RelativeTime(placement, np.zeros((1, SIDE, SIDE, 3), np.uint8), None)
    assert relative([]) == 1
    assert order == []
    assert relative(["a", "b"]) == 1.5
    assert order == ["", "a,b"] * (trials.TIMED_RUNS + 1)


def test_arithmetic_is_relative_to_all_in_int8() -> None:
    placement: Any = SimpleNamespace(work=lambda kept=(): 10 + 5 * len(kept))
    cost = arithmetic(placement)
    assert [cost([]), cost(["a"]), cost(["a", "b"])] == [1, 1.5, 2]
    nothing: Any = SimpleNamespace(work=lambda kept=(): 0)
    assert arithmetic(nothing)([]) == 0
