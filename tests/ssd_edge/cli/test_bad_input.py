"""Bad input to any command: one message, with the right exit status."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ssd_edge.cli.main import main
from tests.ssd_edge.cli.complaint import complaint


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["unknown"],
        ["stream", "--camera", "0", "--web", "all:many"],
        ["stream", "--camera", "0", "--score", "1.5"],
        ["codes", "-o", "x", "--count", "0"],
        ["codes", "-o", "x", "--size", "big"],
        ["demo", "--seconds", "nan"],
        ["eval", "m.onnx", "data", "--report", "r", "--score", "1"],
        ["eval", "m.onnx", "data", "--classes", ","],
        ["export", "c.pt", "-o", "m.onnx", "--precision", "fp8"],
        ["train", "data", "-o", "out", "--hflip", "2"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: ssd-edge" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["parity", "c.pt", "m.onnx", "--data", "d", "--max-drop", "lots"], "'lots' is not understood"),
        (["export", "c.pt", "-o", "m.onnx", "--precision", "int8"], "give --calib DATA"),
        (["export", "c.pt", "-o", "m.tflite"], "does not end in .onnx"),
        (["eval", "m.onnx", "d", "--score", "0.5"], "give --report DIR too"),
        (["stream"], "no source; give --camera"),
        (["stream", "--video", "a.mp4", "--size", "big"], "--size: got 'big', expected a size such as 1280x720"),
        (["stream", "--video", "a.mp4", "--keep", "much"], "--keep: got 'much', expected a size such as 10GB"),
        (["stream", "--video", "a.mp4", "--mqtt-qos", "2"], "--mqtt-qos is about a broker; give --mqtt URL too"),
        (["stream", "--video", "a.mp4", "--web-token", "auto"], "give --web too"),
        (["stream", "--config", "none.toml"], "cannot read none.toml"),
        (["codes", "-o", "scenes.zip"], "is the name of a .zip file; give a folder"),
    ],
)
def test_wrong_usage_found_later_exits_with_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert message in complaint(capsys)


class Pickled:
    """An object that only pickle can load."""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval", "none.onnx", "{data}"], "no model file none.onnx"),
        (["eval", "{text}.onnx", "{data}"], "no ONNX file"),
        (["eval", "{text}.pt", "{data}"], "not a PyTorch checkpoint"),
        (["eval", "{text}.txt", "{data}"], "no model file; expected .onnx"),
        (["eval", "{model}", "none"], "no dataset at none"),
        (["eval", "{model}", "{empty}"], "not a dataset"),
        (["eval", "{model}", "{data}", "--split", "dev"], "split 'dev' does not exist"),
        (["eval", "{other_names}", "{data}"], "no class in common"),
        (["eval", "{model}", "{data}", "--json", "{text}.txt/f.json"], "cannot write"),
        (["eval", "none.onnx", "none", "--report", "{text}.txt/report"], "cannot write to {text}.txt/report"),
        (["parity", "{model}", "{other_names}", "--data", "{data}"], "compare models that were exported"),
        (["export", "none.pt", "-o", "m.onnx"], "no checkpoint at none.pt"),
        (["export", "{text}.pt", "-o", "m.onnx"], "not a PyTorch checkpoint"),
        (["export", "{pickled}", "-o", "m.onnx"], "holds Python objects"),
        (["stream", "--video", "none.mp4", "--model", "{model}"], "no source none.mp4"),
        (["stream", "--source", "{text}.txt", "--model", "{model}"], "{text}.txt"),
        (["stream", "--source", "{data}/images", "--model", "{model}", "--jsonl", "{text}.txt/f"], "cannot"),
        (["stream", "--source", "{data}/images", "--model", "none.onnx"], "no model file none.onnx"),
        (["demo", "--model", "none.onnx", "-o", "{empty}"], "no model file none.onnx"),
        (["codes", "-o", "{text}.txt/set", "--count", "1"], "{text}.txt"),
    ],
)
def test_bad_input_exits_with_1_and_one_message(
    arguments: list[str],
    message: str,
    fixed_model: Callable[..., Path],
    fixed_dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for suffix in (".onnx", ".pt", ".txt"):
        (tmp_path / f"text{suffix}").write_text("only text")
    (tmp_path / "empty").mkdir()
    torch.save({"model": Pickled()}, tmp_path / "pickled.pt")
    places = {
        "text": tmp_path / "text",
        "data": fixed_dataset,
        "empty": tmp_path / "empty",
        "model": fixed_model(),
        "other_names": fixed_model("other.onnx", class_names=("cat", "dog")),
        "pickled": tmp_path / "pickled.pt",
    }
    assert main([argument.format(**places) for argument in arguments]) == 1
    assert message.format(**places) in complaint(capsys)
