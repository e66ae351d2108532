"""Every subcommand on good input, and one message with the right exit status on bad input."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import cv2
import onnx
import pytest
import torch

from ssd_edge import demo
from ssd_edge.checkpoint import Checkpoint, save_checkpoint
from ssd_edge.cli.main import build_parser, main
from ssd_edge.errors import UsageError
from ssd_edge.models.create import create_model
from ssd_edge.runtime.results import Result
from ssd_edge.runtime.sinks.base import Recording
from ssd_edge.runtime.sources.base import SourceOptions
from ssd_edge.runtime.stream.config import MqttConfig, StreamConfig, WebConfig
from ssd_edge.training.config import TrainConfig


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    """The one message on standard error."""
    said = capsys.readouterr().err
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if line.startswith("ssd-edge: ")]
    return line


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("ssd-edge 0.")


def test_train_defaults_are_those_of_the_library() -> None:
    args = build_parser().parse_args(["train", "data", "-o", "out"])
    config = TrainConfig(data="data", output=Path("out"))
    for field in fields(TrainConfig):
        assert getattr(args, field.name) == getattr(config, field.name), field.name


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


def test_parity_passes_and_fails(
    fixed_model: Callable[..., Path], fixed_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference, figures = str(fixed_model("a.onnx")), tmp_path / "figures.json"
    worse = str(fixed_model("b.onnx", found=((0.125, 0.125, 0.75, 0.75), (0.0, 0.0, 0.1, 0.1))))
    data = ["--data", str(fixed_dataset)]
    assert main(["parity", reference, reference, *data]) == 0
    capsys.readouterr()
    assert main(["parity", reference, worse, *data, "--max-drop", "1%", "--json", str(figures)]) == 3
    captured = capsys.readouterr()
    assert "FALLS SHORT" in captured.out
    assert captured.err.startswith("ssd-edge: error: parity failed")
    assert json.loads(figures.read_text())["passed"] is False  # written although the gate failed


def test_codes_writes_a_dataset_and_a_video(tmp_path: Path) -> None:
    assert main(["codes", "-o", str(tmp_path / "set"), "--count", "2", "--size", "160x128"]) == 0
    written = json.loads((tmp_path / "set" / "annotations.json").read_text())
    assert [(image["width"], image["height"]) for image in written["images"]] == [(160, 128)] * 2
    video = tmp_path / "moving.mp4"
    assert main(["codes", "-o", str(video), "--seconds", "0.1"]) == 0
    assert cv2.VideoCapture(str(video)).get(cv2.CAP_PROP_FRAME_COUNT) == 3


def test_codes_takes_a_folder_with_a_dot_in_its_name(tmp_path: Path) -> None:
    assert main(["codes", "-o", str(tmp_path / "set.v1"), "--count", "1", "--size", "160x128"]) == 0
    assert (tmp_path / "set.v1" / "annotations.json").is_file()


def test_codes_does_not_overwrite_annotations_of_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "annotations.json").write_text('{"info": {"description": "mine"}}')
    assert main(["codes", "-o", str(tmp_path), "--count", "1"]) == 1
    assert "annotations.json is not of ssd-edge codes" in complaint(capsys)


def test_stream_writes_json_lines(fixed_model: Callable[..., Path], fixed_dataset: Path, tmp_path: Path) -> None:
    lines = tmp_path / "found.jsonl"
    images = str(fixed_dataset / "images")
    assert main(["stream", "--source", images, "--model", str(fixed_model()), "--jsonl", str(lines)]) == 0
    frames = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [[found["class"] for found in frame["detections"]] for frame in frames] == [["qr_code", "aztec"]] * 2


def test_demo_reports_fps_and_map(
    fixed_model: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "demo"
    assert main(["demo", "--model", str(fixed_model()), "-o", str(folder), "--seconds", "0.2"]) == 0
    out = capsys.readouterr().out
    assert "FPS" in out
    assert "mAP" in out
    assert len((folder / "detections.jsonl").read_text().splitlines()) == 6
    assert cv2.VideoCapture(str(folder / "annotated.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 6


def test_an_interrupted_demo_exits_with_130_and_keeps_what_is_written(
    fixed_model: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class InterruptedSink(demo._ConfidentVideoSink):
        def write(self, result: Result, *rest: Any) -> None:
            if result.frame.index == 2:
                signal.raise_signal(signal.SIGINT)
            super().write(result, *rest)

    monkeypatch.setattr(demo, "_ConfidentVideoSink", InterruptedSink)
    assert main(["demo", "--model", str(fixed_model()), "-o", str(tmp_path / "demo"), "--seconds", "1"]) == 130
    assert complaint(capsys) == "ssd-edge: interrupted"
    frames = len((tmp_path / "demo" / "detections.jsonl").read_text().splitlines())
    assert 3 <= frames < 30
    assert cv2.VideoCapture(str(tmp_path / "demo" / "annotated.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == frames


@pytest.mark.parametrize(
    ("option", "value", "source"),
    [
        ("--video", "0", Path("0")),  # a file of that name, not a camera
        ("--camera", "0", 0),
        ("--camera", "HD Cam", "camera:HD Cam"),
        ("--csi", "1", "csi:1"),
        ("--rtsp", "rtsp://host/a", "rtsp://host/a"),
        ("--source", "0", "0"),
    ],
)
def test_stream_hands_on_what_kind_of_source_was_named(
    option: str, value: str, source: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs: list[StreamConfig] = []
    monkeypatch.setattr("ssd_edge.runtime.stream.run.run_stream", configs.append)
    assert main(["stream", option, value, "--model", "m.onnx"]) == 0
    (found,) = configs[0].sources
    assert found.uri == source
    assert type(found.uri) is type(source)
    assert found.options == SourceOptions()


def test_stream_hands_on_all_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs: list[StreamConfig] = []
    monkeypatch.setattr("ssd_edge.runtime.stream.run.run_stream", configs.append)
    (tmp_path / "a.toml").write_text('jsonl = "file.jsonl"\nshow = true\n[[source]]\nuri = "a.mp4"\nloop = true\n')
    arguments = ["--camera", "0", "--video", "a.mp4", "--size", "1280x720", "--fps", "30", "--pixel-format", "MJPG"]
    arguments += ["--transport", "udp", "--loop", "--realtime", "--timeout", "3", "--retries", "2", "--classes", "a,b"]
    arguments += ["--model", "m.onnx", "--jsonl", "-", "--segment", "10m", "--keep", "10GB", "--web", "0.0.0.0:80"]
    arguments += ["--web-token", "auto", "--mqtt", "mqtt://host", "--mqtt-qos", "2", "--latency", "--threads", "3"]
    assert main(["stream", "--config", str(tmp_path / "a.toml"), *arguments]) == 0
    (config,) = configs
    assert [source.uri for source in config.sources] == [0, Path("a.mp4")]
    for source in config.sources:
        assert source.options == SourceOptions((1280, 720), 30.0, "MJPG", "udp", realtime=True, timeout_s=3.0)
        assert (source.loop, source.retries, source.understanding.classes) == (True, 2, ("a", "b"))
    assert (config.jsonl, config.show, config.latency, config.threads) == ("-", True, True, 3)
    assert config.recording == Recording(600.0, 10**10)
    assert config.web == WebConfig("0.0.0.0", 80, "auto")
    assert config.mqtt == MqttConfig("mqtt://host", qos=2)


def test_options_of_sources_do_not_pass_over_those_of_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.toml").write_text('[[source]]\nuri = "a.mp4"\n')
    assert main(["stream", "--config", str(tmp_path / "a.toml"), "--loop"]) == 2
    assert "--loop is about sources that are given as options" in complaint(capsys)


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


class Pickled:
    """An object that only pickle can load."""


def test_an_image_that_is_none_is_left_out_and_named(
    fixed_model: Callable[..., Path], fixed_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (fixed_dataset / "images" / "2.png").write_text("no image")
    assert main(["eval", str(fixed_model()), str(fixed_dataset)]) == 0
    captured = capsys.readouterr()
    assert "corrupt image (left out): 2.png" in captured.err
    assert "1 images" in captured.out


def test_weights_that_do_not_fit_the_card_are_refused(
    tmp_path: Path, fixed_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = create_model("ssdlite320_mobilenet_v3_large", 3)
    card = model.make_card(("one", "two"), (1, 2))
    save_checkpoint(tmp_path / "c.pt", Checkpoint(card, model.state_dict()))
    assert main(["export", str(tmp_path / "c.pt"), "-o", str(tmp_path / "m.onnx")]) == 1
    assert "the weights do not fit the card" in complaint(capsys)
    assert not (tmp_path / "m.onnx").exists()


def test_an_onnx_with_other_outputs_is_refused(
    fixed_model: Callable[..., Path], fixed_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load(fixed_model())
    model.graph.output[0].name = model.graph.node[4].output[0] = "rectangles"
    onnx.save(model, tmp_path / "renamed.onnx")
    assert main(["eval", str(tmp_path / "renamed.onnx"), str(fixed_dataset)]) == 1
    assert "outputs ['rectangles', 'scores']; expected" in complaint(capsys)


def test_a_missing_bundled_model_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ssd_edge.bundled.BUNDLED_MODEL", tmp_path / "absent.onnx")
    assert main(["stream", "--source", "."]) == 1
    assert "name a model with --model" in complaint(capsys)


def test_an_unexpected_error_is_one_line_unless_debug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def explode(_: object) -> None:
        raise ZeroDivisionError("a bug\nwith more lines")

    monkeypatch.setattr("ssd_edge.cli.demo.run", explode)
    assert main(["demo"]) == 1
    expected = "ssd-edge: unexpected ZeroDivisionError: a bug (run with --debug for the traceback)"
    assert complaint(capsys) == expected
    with pytest.raises(ZeroDivisionError):
        main(["demo", "--debug"])
    with pytest.raises(ZeroDivisionError):
        main(["--debug", "demo"])


def test_an_interrupt_exits_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ssd_edge.cli.demo.run", interrupt)
    assert main(["demo"]) == 130
    assert complaint(capsys) == "ssd-edge: interrupted"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX pipes")
def test_a_closed_pipe_is_no_traceback(fixed_model: Callable[..., Path], fixed_dataset: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-m", "ssd_edge", "eval", str(fixed_model()), str(fixed_dataset)]
    with os.fdopen(write_end, "wb") as pipe:
        result = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, text=True, timeout=60)
    assert result.returncode == 1
    assert result.stderr == ""
