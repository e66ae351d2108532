"""`ssd-edge eval`."""

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch

from ssd_edge.cli.main import main
from ssd_edge.errors import UsageError
from tests.ssd_edge.cli.complaint import complaint


def test_eval_prints_the_metrics_and_writes_json(
    fixed_model: Callable[..., Path], fixed_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = tmp_path / "figures.json"
    assert main(["eval", str(fixed_model()), str(fixed_dataset), "--json", str(figures)]) == 0
    assert "qr_code   1.000   1.000" in capsys.readouterr().out
    assert json.loads(figures.read_text())["metrics"]["AP"] == pytest.approx(1)


def test_eval_of_some_classes(
    fixed_model: Callable[..., Path], fixed_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(fixed_model()), str(fixed_dataset), "--classes", "aztec"]) == 0
    out = capsys.readouterr().out
    assert "aztec" in out
    assert "qr_code" not in out


@pytest.mark.parametrize(
    ("model", "options", "cuda", "device"),
    [
        ("m.pt", [], True, "cuda"),
        ("m.safetensors", [], True, "cuda"),
        ("m.pt", [], False, "cpu"),
        ("m.pt", ["--device", "cpu"], True, "cpu"),
        ("m.pt", ["--device", "cuda:1"], True, "cuda:1"),
        ("m.onnx", [], True, None),
        ("m.onnx", ["--device", "cuda"], True, "cuda"),  # which open_detector refuses
    ],
)
def test_eval_of_a_checkpoint_takes_the_gpu_where_there_is_one(
    model: str, options: list[str], cuda: bool, device: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str | None] = []

    def open_nothing(path: Path, *, threads: int | None, device: str | None) -> None:
        asked.append(device)
        raise UsageError("enough seen")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr("ssd_edge.runtime.detector.open_detector", open_nothing)
    assert main(["eval", model, "data", *options]) == 2
    assert asked == [device]


def test_eval_of_an_onnx_file_is_on_the_cpu(
    fixed_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(fixed_model()), "data", "--device", "cuda"]) == 2
    assert "--device cuda: ONNX files run on the CPU in this version" in complaint(capsys)


def test_eval_writes_a_report(
    fixed_model: Callable[..., Path], fixed_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new" / "report"
    command = ["eval", str(fixed_model()), str(fixed_dataset), "--report", str(folder)]
    assert main(command) == 0
    names = ("confusion.png", "precision_recall.png", "worst_images.png", "report.json")
    assert capsys.readouterr().out.splitlines()[-4:] == [str(folder / name) for name in names]
    assert json.loads((folder / "report.json").read_text())["at_score"]["score"] == 0.45  # scores are 0.9
    assert main([*command, "--score", "0.95"]) == 0
    assert json.loads((folder / "report.json").read_text())["at_score"]["recall"] == 0


def test_an_image_that_is_none_is_left_out_and_named(
    fixed_model: Callable[..., Path], fixed_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (fixed_dataset / "images" / "2.png").write_text("no image")
    assert main(["eval", str(fixed_model()), str(fixed_dataset)]) == 0
    captured = capsys.readouterr()
    assert "corrupt image (left out): 2.png" in captured.err
    assert "1 images" in captured.out


def test_an_onnx_with_other_outputs_is_refused(
    fixed_model: Callable[..., Path], fixed_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load(fixed_model())
    model.graph.output[0].name = model.graph.node[4].output[0] = "rectangles"
    onnx.save(model, tmp_path / "renamed.onnx")
    assert main(["eval", str(tmp_path / "renamed.onnx"), str(fixed_dataset)]) == 1
    assert "outputs ['rectangles', 'scores']; expected" in complaint(capsys)
