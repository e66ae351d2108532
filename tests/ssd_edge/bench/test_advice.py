"""Whether int8 is worth it, by figures that were made up; and that the report of a real run says so."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from ssd_edge.bench import worker
from ssd_edge.bench.advice import int8_advice
from ssd_edge.bench.figures import speed_of
from ssd_edge.bench.measure import bench
from ssd_edge.bench.options import BenchOptions
from ssd_edge.bench.report import ModelFigures
from ssd_edge.bench.turns import TurnTimes
from ssd_edge.bench.worker import Job, serve
from ssd_edge.data.readers import read_dataset

PARENT, OTHER_PARENT = "a" * 64, "b" * 64
TEN_MS = (10.0, 10.0, 10.0, 10.0, 10.0, 10.0)


class Bench:
    """Models and their turns: a latency for each round."""

    def __init__(self) -> None:
        self.models: list[ModelFigures] = []
        self.turns: dict[str, list[TurnTimes]] = {}

    def add(
        self,
        precision: str,
        ms: tuple[float, ...],
        *,
        backend: str = "TensorRT",
        parent: str | None = PARENT,
        name: str | None = None,
        ap: float | None = None,
    ) -> "Bench":
        turns = [TurnTimes((each,), (each,), 0) for each in ms]
        figures = ModelFigures(
            name=name or f"{precision}.onnx",
            sha256="0" * 64,
            size_bytes=1,
            precision=precision,
            parent_sha256=parent,
            backend=backend,
            ap=ap,
            speed=speed_of(turns, 1, turns),
        )
        self.models.append(figures)
        self.turns[figures.name] = turns
        return self

    def advice(self) -> tuple[str, ...]:
        return int8_advice(self.models, self.turns)


def test_int8_that_is_faster_needs_no_note() -> None:
    assert Bench().add("int8", (5.0, 5.0, 5.0, 6.0, 6.0, 6.0)).add("fp16", TEN_MS).advice() == ()


def test_int8_that_is_slower() -> None:
    (note,) = Bench().add("fp16", TEN_MS, ap=0.5).add("int8", (12.5,) * 6, ap=0.48).advice()
    assert note == (
        "note: int8.onnx (int8) is slower than fp16.onnx (fp16) on TensorRT: median latency 12.50 against 10.00 ms, "
        "0.80 (0.80–0.80) times as fast, AP 0.4800 against 0.5000; take fp16.onnx"
    )


def test_int8_whose_rounds_are_now_faster_now_slower() -> None:
    """Ratios 0.5, 0.8, 1, 1.25, 1.25, 2: the median is above 1, and the lower quartile is not."""
    (note,) = Bench().add("int8", (20.0, 12.5, 10.0, 8.0, 8.0, 5.0)).add("fp16", TEN_MS).advice()
    assert "int8.onnx (int8) is not measurably faster than fp16.onnx" in note
    assert "1.12 (0.85–1.25) times as fast; take fp16.onnx" in note


def test_of_two_alternatives_the_fastest_is_recommended() -> None:
    bench = Bench().add("fp32", (11.0,) * 6).add("int8", (12.0,) * 6).add("fp16", TEN_MS)
    (note,) = bench.advice()
    assert note.endswith("take fp16.onnx")


@pytest.mark.parametrize("backend", ["ONNX Runtime", "PyTorch cpu"])
def test_on_a_processor_half_precision_is_no_alternative(backend: str) -> None:
    bench = Bench().add("int8", (12.0,) * 6, backend=backend).add("fp16", TEN_MS, backend=backend)
    assert bench.advice() == ()
    (note,) = bench.add("fp32", TEN_MS, backend=backend).advice()
    assert note.endswith("take fp32.onnx")


@pytest.mark.parametrize(
    "other",
    [
        {"parent": OTHER_PARENT},  # another checkpoint
        {"parent": None},
        {"backend": "ONNX Runtime"},
    ],
)
def test_models_that_are_no_pair_are_not_compared(other: dict[str, str | None]) -> None:
    assert Bench().add("int8", (12.0,) * 6).add("fp16", TEN_MS, **other).advice() == ()  # type: ignore[arg-type]
    unknown = Bench().add("int8", (12.0,) * 6, parent=None).add("fp16", TEN_MS, parent=None)
    assert unknown.advice() == ()


def test_without_a_partner_or_enough_rounds_nothing_is_said() -> None:
    assert Bench().add("int8", TEN_MS).advice() == ()
    assert Bench().add("fp16", TEN_MS).add("fp32", TEN_MS).advice() == ()
    assert Bench().add("int8", (12.0,) * 4).add("fp16", (10.0,) * 4).advice() == ()  # 4 rounds
    assert len(Bench().add("int8", (12.0,) * 5).add("fp16", (10.0,) * 5).advice()) == 1


def test_a_model_without_a_speed_is_left_out() -> None:
    bench = Bench().add("int8", (12.0,) * 6).add("fp16", TEN_MS)
    bench.models = [replace(model, speed=None) if model.precision == "fp16" else model for model in bench.models]
    assert bench.advice() == ()


def test_each_int8_model_is_compared_with_its_own_checkpoint() -> None:
    bench = Bench().add("int8", (12.0,) * 6, name="a8").add("fp16", TEN_MS, name="a16")
    bench.add("int8", (5.0,) * 6, name="b8", parent=OTHER_PARENT).add("fp16", TEN_MS, name="b16", parent=OTHER_PARENT)
    assert [note.split()[1] for note in bench.advice()] == ["a8"]


def slow_int8(pipe: Connection, job: Job) -> None:
    """A worker whose int8 model takes 10 ms longer."""
    if job.model.name.startswith("int8"):
        call = worker.OpenModel.call

        def slowly(model: worker.OpenModel) -> tuple[float, int]:
            time.sleep(0.01)
            return call(model)

        pytest.MonkeyPatch().setattr(worker.OpenModel, "call", slowly)
    serve(pipe, job)


def test_the_report_of_a_run_recommends_it(fixed_model: Callable[..., Path], fixed_dataset: Path) -> None:
    models = [
        fixed_model("fp32.onnx", parent_sha256=PARENT),
        fixed_model("int8.onnx", parent_sha256=PARENT, precision="int8"),
    ]
    options = BenchOptions(runs=5, warmup=1, threads=1, backend="onnxruntime", accuracy=False)
    report = bench(models, read_dataset(fixed_dataset), options, progress=False, run=slow_int8)
    (note,) = [note for note in report.notes if "int8" in note]
    assert note.startswith("note: int8.onnx (int8) is slower than fp32.onnx (fp32) on ONNX Runtime: median latency ")
    assert note.endswith("times as fast; take fp32.onnx")
    assert f"- {note}" in report.markdown().splitlines()
    assert note in " ".join(report.table().split())
    content = json.loads(report.to_json())
    assert note in content["notes"]
    assert [model["parent_sha256"] for model in content["models"]] == [PARENT, PARENT]
