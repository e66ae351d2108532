"""`bench` in processes of its own, on models whose answers are known; and what becomes of processes that die."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace

import pytest

from ssd_edge.bench import measure, prepare, worker
from ssd_edge.bench.child import ModelFailedError
from ssd_edge.bench.measure import bench, unique_names
from ssd_edge.bench.memory import peak_memory_bytes
from ssd_edge.bench.options import BenchOptions
from ssd_edge.bench.worker import Job, Prepared, serve
from ssd_edge.card import INT8_METADATA_KEY
from ssd_edge.cli.main import main
from ssd_edge.data.readers import read_dataset
from ssd_edge.errors import ModelFileError, UsageError
from ssd_edge.export import engine_cache
from ssd_edge.runtime.host.gpu_use import GpuUse

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
        turn, turns = worker._Model.turn, []

        def crash(model: worker._Model, asked: object) -> object:
            turns.append(asked)
            return turn(model, asked) if len(turns) == 1 else os.kill(os.getpid(), signal.SIGSEGV)  # type: ignore[arg-type]

        worker._Model.turn = crash  # type: ignore[method-assign, assignment]
    serve(pipe, job)


def runs_out_of_memory(pipe: Connection, job: Job) -> None:
    """A worker that cannot allocate what a bad model needs."""
    if job.model.name.startswith("bad"):

        def fail(model: worker._Model) -> None:
            raise MemoryError

        worker._Model._call = fail  # type: ignore[method-assign, assignment]
    serve(pipe, job)


def test_accuracy_and_speed_side_by_side(fixed_model: Write, fixed_dataset: Path) -> None:
    models = [fixed_model("right.onnx"), fixed_model("half.onnx", found=WRONG_BOXES, precision="int8")]
    report = bench(models, read_dataset(fixed_dataset), QUICK, progress=False)
    right, half = report.models
    assert (right.name, right.precision, right.backend, right.error) == ("right.onnx", "fp32", "ONNX Runtime", None)
    assert (right.ap, right.ap50) == (pytest.approx(1), pytest.approx(1))
    assert (half.ap, half.precision) == (pytest.approx(0.5), "int8")
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
    run: worker.Callable, reason: str, turns_taken: bool, fixed_model: Write, fixed_dataset: Path
) -> None:
    models = [fixed_model("bad.onnx"), fixed_model("good.onnx")]
    report = bench(models, read_dataset(fixed_dataset), QUICK, progress=False, run=run)
    bad, good = report.models
    assert (good.error, good.ap) == (None, pytest.approx(1))
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

    def prepare_model(path: Path, *, on_cpu: worker.Callable[[str], None], **_: object) -> Path:
        on_cpu(reason)
        return path

    monkeypatch.setattr(prepare, "prepare_model", prepare_model)
    models = [fixed_model("a.onnx"), fixed_model("b.onnx")]
    prepare.serve_prepared(SimpleNamespace(send=sent.append), Job(models[0], (), QUICK))  # type: ignore[arg-type]
    assert sent == [Prepared(models[0], reason)]
    monkeypatch.setattr(measure, "prepared_model", lambda job: Prepared(job.model, reason))
    options, dataset = replace(QUICK, accuracy=False), read_dataset(fixed_dataset)
    report = bench(models, dataset, options, progress=False)
    assert report.notes == (f"note: {reason}",)  # once, as all models have the same
    assert [text for text in caplog.messages if reason in text] == [f"a.onnx {reason}"]
    monkeypatch.setattr(
        measure, "prepared_model", lambda job: Prepared(job.model, reason if job.model == models[1] else None)
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
    monkeypatch.setattr(engine_cache, "_cached_engine", lambda path, *_: path)

    def prepared_model(job: Job) -> Prepared:
        sent: list[Prepared] = []
        auto = replace(job, options=replace(job.options, backend="auto"))
        prepare.serve_prepared(SimpleNamespace(send=sent.append), auto)  # type: ignore[arg-type]
        return sent[0]

    monkeypatch.setattr(measure, "prepared_model", prepared_model)
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


def test_peak_memory_is_in_bytes(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmPeak:\t  999 kB\nVmHWM:\t    1234 kB\nVmRSS:\t 7 kB\n")
    assert peak_memory_bytes(status) == 1234 * 1024
    assert peak_memory_bytes() > 20 << 20
    assert peak_memory_bytes(tmp_path / "no proc here") > 20 << 20  # by getrusage


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    """The one message on standard error."""
    said = capsys.readouterr().err
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if line.startswith("ssd-edge: ")]
    return line


def test_the_command_writes_table_json_markdown_and_plot(
    fixed_model: Write, fixed_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    models = [str(fixed_model("right.onnx")), str(fixed_model("half.onnx", found=WRONG_BOXES))]
    command = ["bench", *models, "--data", str(fixed_dataset), "--runs", "5", "--threads", "1"]
    files = {kind: tmp_path / "new" / f"bench.{kind}" for kind in ("json", "md", "png")}
    outputs = ["--json", str(files["json"]), "--markdown", str(files["md"]), "--plot", str(files["png"])]
    assert main([*command, "--backend", "onnxruntime", *outputs]) == 0
    out = capsys.readouterr().out
    assert "detections above 0.1" in out
    assert "5 rounds" in out
    figures = json.loads(files["json"].read_text())
    assert [model["ap"] for model in figures["models"]] == pytest.approx([1, 0.5])
    assert files["md"].read_text().startswith("| model | precision | runs on | AP |")
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in files["json"].parent.iterdir()) == ["bench.json", "bench.md", "bench.png"]


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--plot", "a.png", "--no-accuracy"], 2, "leave out --no-accuracy"),
        (["--plot", "a.jpg"], 2, "does not end in .png"),
        (["--json", "a.x", "--markdown", "./a.x"], 2, "two outputs have the same name"),
        (["--json", "dataset"], 1, "it is a folder"),
        (["--calib", "dataset"], 2, "give --precisions"),
        (["--int8-heads"], 2, "give --precisions"),
        (["--precisions", "int8", "--calib", "dataset", "--int8-heads"], 2, "is for --target tensorrt"),
        (["--precisions", "fp32"], 2, "none is given"),
        (["--precisions", "fp64"], 2, "unknown precision 'fp64'"),
        (["--precisions", "int8"], 2, "give --calib DATA"),
        (["--split", "test"], 1, "split 'test' does not exist"),
    ],
)
def test_wrong_usage_shows_before_the_long_work(
    options: list[str],
    status: int,
    message: str,
    fixed_model: Write,
    fixed_dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ssd_edge.bench.measure.bench", lambda *_: pytest.fail("it has begun"))
    assert main(["bench", str(fixed_model()), "--data", "dataset", *options]) == status
    assert message in complaint(capsys)


@pytest.mark.parametrize("options", [["--seconds", "0"], ["--runs", "0"], ["--runs", "5", "--seconds", "5"]])
def test_wrong_numbers(options: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "m.onnx", "--data", "d", *options])
    assert ended.value.code == 2


def test_interrupted_it_ends_its_processes_and_writes_nothing(
    fixed_model: Write, fixed_dataset: Path, tmp_path: Path
) -> None:
    models, figures = [str(fixed_model("a.onnx")), str(fixed_model("b.onnx"))], tmp_path / "figures.json"
    command = ["bench", *models, "--data", str(fixed_dataset), "--seconds", "600", "--json", str(figures)]
    process = subprocess.Popen(
        [sys.executable, "-m", "ssd_edge", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    assert "opening a.onnx" in process.stderr.readline()
    assert "opening b.onnx" in process.stderr.readline()  # now the second one starts
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does, to all of them
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "ssd-edge: interrupted\n")
    assert not figures.exists()
    for _ in range(100):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        pytest.fail("a process is left")


@pytest.mark.slow
def test_a_checkpoint_and_its_exports(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    tiny = Path(__file__).parents[2] / "detectors" / "tiny_arch.py"
    code = (
        "import sys; from pathlib import Path; import tiny_arch; "
        "from ssd_edge.checkpoint import Checkpoint, save_checkpoint; from ssd_edge.models.create import create_model; "
        "model = create_model('tiny', 1); card = model.make_card(('square',), (1,)); "
        "save_checkpoint(Path('best.pt'), Checkpoint(card, model.state_dict())); "
        "tiny_arch.write_yolo(Path('data'), 4)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tiny.parent), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, timeout=300)
    options = ["--precisions", "torch,fp32", "--keep", "kept", "--runs", "5", "--json", "figures.json"]
    result = subprocess.run(
        [sys.executable, str(tiny), "bench", "best.pt", "--data", "data", *options],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    models = json.loads((tmp_path / "figures.json").read_text())["models"]
    assert [model["name"] for model in models] == ["best.pt", "best.fp32.onnx"]
    assert models[0]["backend"].startswith("PyTorch c")
    assert models[0]["ap"] == pytest.approx(models[1]["ap"], abs=1e-3)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["best.fp32.onnx"]
