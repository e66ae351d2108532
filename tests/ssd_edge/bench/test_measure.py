"""`bench` in processes of its own, on models whose answers are known; and what becomes of processes that die."""

import os
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace

import pytest

from ssd_edge.bench import measured_model, prepare, worker
from ssd_edge.bench.child import ModelFailedError, Serve
from ssd_edge.bench.measure import bench, unique_names
from ssd_edge.bench.options import BenchOptions
from ssd_edge.bench.turns import Turn, TurnTimes
from ssd_edge.bench.worker import Job, Prepared, serve
from ssd_edge.card import INT8_METADATA_KEY
from ssd_edge.data.readers import read_dataset
from ssd_edge.errors import ModelFileError, UsageError
from ssd_edge.export.engine import cache as engine_cache
from ssd_edge.runtime.gpu_use import GpuUse

Write = Callable[..., Path]

QUICK = BenchOptions(runs=5, warmup=1, threads=1, backend="onnxruntime")

WRONG_BOXES = ((0.125, 0.125, 0.75, 0.75), (0.0, 0.0, 0.1, 0.1))  # right for the first class only


def killed_at_once(pipe: Connection, job: Job) -> None:
    """A worker that the system kills while it opens a bad model."""
    if job.model.name.startswith("bad"):
        os.kill(os.getpid(), signal.SIGKILL)
    serve(pipe, job)


def crashes_in_a_turn(pipe: Connection, job: Job) -> None:
    """A worker whose library brings it down in the second turn of a bad model."""
    if job.model.name.startswith("bad"):
        turn, turns = worker.OpenModel.turn, list[Turn]()

        def crash(model: worker.OpenModel, asked: Turn) -> TurnTimes:
            turns.append(asked)
            if len(turns) == 2:
                os.kill(os.getpid(), signal.SIGSEGV)
            return turn(model, asked)

        pytest.MonkeyPatch().setattr(worker.OpenModel, "turn", crash)
    serve(pipe, job)


def runs_out_of_memory(pipe: Connection, job: Job) -> None:
    """A worker that cannot allocate what a bad model needs."""
    if job.model.name.startswith("bad"):

        def fail(model: worker.OpenModel) -> None:
            raise MemoryError

        pytest.MonkeyPatch().setattr(worker.OpenModel, "call", fail)
    serve(pipe, job)


def test_accuracy_and_speed_side_by_side(fixed_model: Write, fixed_dataset: Path) -> None:
    models = [fixed_model("right.onnx"), fixed_model("half.onnx", found=WRONG_BOXES, precision="int8")]
    report = bench(models, read_dataset(fixed_dataset), QUICK, progress=False)
    right, half = report.models
    assert (right.name, right.precision, right.backend, right.error) == ("right.onnx", "fp32", "ONNX Runtime", None)
    assert (right.ap, right.ap50) == pytest.approx((1, 1))
    assert half.ap == pytest.approx(0.5)
    assert half.precision == "int8"
    assert right.size_bytes == models[0].stat().st_size
    for model in report.models:
        assert model.speed is not None
        assert model.speed.calls == 5
        assert model.speed.detections_a_frame == 2
        assert 0 < model.speed.latency_ms.p50 <= model.speed.latency_ms.p99
        assert model.speed.network_ms.p50 < model.speed.latency_ms.p50
        assert model.peak_memory_bytes is not None
        assert model.peak_memory_bytes > 20 << 20  # NumPy, OpenCV and ONNX Runtime at the least
    assert right.speed is not None
    assert right.speed.times_as_fast is not None
    assert right.speed.times_as_fast.median == 1
    assert (report.rounds, report.frames, report.images, report.frame_sizes) == (5, 2, 2, "64×64")


def test_a_model_of_other_classes_fails_with_the_evaluations_message(fixed_model: Write, fixed_dataset: Path) -> None:
    other = fixed_model("other.onnx", class_names=("cat", "dog"))
    models, dataset = [fixed_model("right.onnx"), other], read_dataset(fixed_dataset)
    report = bench(models, dataset, QUICK, progress=False)
    assert report.models[0].ap == pytest.approx(1)
    assert report.models[1].speed is None
    assert "no class in common; the dataset has qr_code, aztec, the model knows cat, dog" in str(report.models[1].error)
    with pytest.raises(ModelFailedError, match=r"1 of 2 models failed: other\.onnx; see FAILED above"):
        report.check()
    with pytest.raises(ModelFailedError, match=r"other\.onnx failed: .*no class in common"):
        bench([other], dataset, QUICK, progress=False)


def test_without_accuracy_any_model_is_timed(fixed_model: Write, fixed_dataset: Path) -> None:
    options = BenchOptions(runs=5, warmup=0, batch=3, score_threshold=0.95, accuracy=False)
    other = fixed_model("other.onnx", class_names=("cat", "dog"))
    (model,) = bench([other], read_dataset(fixed_dataset), options, progress=False).models
    assert model.speed is not None
    assert (model.ap, model.score_threshold, model.speed.detections_a_frame) == (None, 0.95, 0)


@pytest.mark.parametrize(
    ("run", "reason", "turns_taken"),
    [
        (killed_at_once, r"killed \(SIGKILL\), as the system does when memory runs out", False),
        (crashes_in_a_turn, r"crashed \(SIGSEGV\)", True),
        (runs_out_of_memory, "out of memory; use a smaller batch", False),
    ],
)
def test_a_process_that_dies_is_reported_and_the_others_go_on(
    run: Serve, reason: str, turns_taken: bool, fixed_model: Write, fixed_dataset: Path
) -> None:
    models = [fixed_model("bad.onnx"), fixed_model("good.onnx")]
    report = bench(models, read_dataset(fixed_dataset), QUICK, progress=False, run=run)
    bad, good = report.models
    assert good.error is None
    assert good.ap == pytest.approx(1)
    assert good.speed is not None
    assert good.speed.calls == 5
    assert (bad.speed is not None) == turns_taken
    assert bad.ap is None
    assert re.search(reason, str(bad.error))
    # The first model is what others are compared with, in the rounds that it lived through.
    assert (good.speed.times_as_fast is not None) == turns_taken
    assert "FAILED bad.onnx: " in report.table()


def test_why_the_gpu_does_not_run_a_model_is_in_the_report(
    fixed_model: Write, fixed_dataset: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reason = "runs on the CPU, not on the NVIDIA GPU: cuda-core is not installed"
    sent: list[Prepared] = []
    monkeypatch.setattr(prepare, "begin_process", lambda: None)

    def prepare_model(path: Path, *, on_cpu: Callable[[str], None], **_: object) -> Path:
        on_cpu(reason)
        return path

    monkeypatch.setattr(prepare, "prepare_model", prepare_model)
    models = [fixed_model("a.onnx"), fixed_model("b.onnx")]
    prepare.serve_prepared(SimpleNamespace(send=sent.append), Job(models[0], (), QUICK))  # type: ignore[arg-type]
    assert sent == [Prepared(models[0], reason)]
    monkeypatch.setattr(measured_model, "prepared_model", lambda job: Prepared(job.model, reason))
    options, dataset = replace(QUICK, accuracy=False), read_dataset(fixed_dataset)
    report = bench(models, dataset, options, progress=False)
    assert report.notes == (f"note: {reason}",)  # once, as all models have the same
    assert [text for text in caplog.messages if reason in text] == [f"a.onnx {reason}"]
    monkeypatch.setattr(
        measured_model,
        "prepared_model",
        lambda job: Prepared(job.model, reason if job.model == models[1] else None),
    )
    assert bench(models, dataset, options, progress=False).notes == (f"note on b.onnx: {reason}",)


def test_int8_for_the_cpu_next_to_fp16_on_the_gpu_is_noted(
    fixed_model: Write, fixed_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `bench --precisions fp16,int8` measures them on a machine with a GPU, without `--target`."""
    onnx = pytest.importorskip("onnx")
    fp16, int8 = fixed_model("fp16.onnx"), fixed_model("int8.onnx")
    model = onnx.load(int8)
    onnx.helper.set_model_props(
        model, {entry.key: entry.value for entry in model.metadata_props} | {INT8_METADATA_KEY: '{"target": "cpu"}'}
    )
    onnx.save(model, int8)
    monkeypatch.setattr(prepare, "begin_process", lambda: None)
    monkeypatch.setattr(engine_cache, "look_for_gpu", lambda: GpuUse(True, None))
    monkeypatch.setattr(engine_cache, "cached_engine", lambda path, *_: path)

    def prepared_model(job: Job) -> Prepared:
        sent: list[Prepared] = []
        auto = replace(job, options=replace(job.options, backend="auto"))
        prepare.serve_prepared(SimpleNamespace(send=sent.append), auto)  # type: ignore[arg-type]
        return sent[0]

    monkeypatch.setattr(measured_model, "prepared_model", prepared_model)
    report = bench([fp16, int8], read_dataset(fixed_dataset), replace(QUICK, accuracy=False), progress=False)
    (note,) = report.notes
    assert note.startswith(
        "note on int8.onnx: runs on the CPU, not on the NVIDIA GPU: it is an int8 file for the target"
    )
    assert "--target tensorrt" in note


def test_models_that_are_no_models(fixed_model: Write, fixed_dataset: Path, tmp_path: Path) -> None:
    dataset, model = read_dataset(fixed_dataset), fixed_model()
    with pytest.raises(ModelFileError, match=r"no model file .*gone\.onnx"):
        bench([model, tmp_path / "gone.onnx"], dataset, QUICK)
    (tmp_path / "link.onnx").symlink_to(model)
    with pytest.raises(UsageError, match=r"link\.onnx is given twice"):
        bench([model, tmp_path / "link.onnx"], dataset, QUICK)
    with pytest.raises(UsageError, match="no model to measure"):
        bench([], dataset, QUICK)


def test_names_tell_models_apart() -> None:
    assert unique_names([Path("runs/a/best.pt"), Path("m.onnx")]) == ("best.pt", "m.onnx")
    assert unique_names([Path("runs/a/best.pt"), Path("runs/b/best.pt")]) == ("a/best.pt", "b/best.pt")
    assert unique_names([Path("best.pt"), Path("/b/best.pt")]) == ("best.pt", "b/best.pt")
