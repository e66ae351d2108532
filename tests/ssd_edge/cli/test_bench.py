"""The command `bench`: its outputs, wrong usage, Ctrl-C, and exports of a checkpoint."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ssd_edge.cli.main import main
from tests.ssd_edge.cli.complaint import complaint

Write = Callable[..., Path]


def test_the_command_writes_table_json_markdown_and_plot(
    fixed_model: Write, fixed_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    half = ((0.125, 0.125, 0.75, 0.75), (0.0, 0.0, 0.1, 0.1))  # right for the first class only
    models = [str(fixed_model("right.onnx")), str(fixed_model("half.onnx", found=half))]
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
    watchdog = threading.Timer(120, process.kill)  # readline has no timeout
    watchdog.start()
    assert "opening a.onnx" in process.stderr.readline()
    assert "opening b.onnx" in process.stderr.readline()  # now the second one starts
    watchdog.cancel()
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
