"""`ssd-edge stream`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ssd_edge.cli.main import main
from ssd_edge.runtime.sinks.base import Recording
from ssd_edge.runtime.sources.base import SourceOptions
from ssd_edge.runtime.stream.config import MqttConfig, SnapshotsConfig, StreamConfig, WebConfig
from tests.ssd_edge.cli.complaint import complaint
from tests.ssd_edge.cli.option_help import option_help


def test_stream_writes_json_lines(fixed_model: Callable[..., Path], fixed_dataset: Path, tmp_path: Path) -> None:
    lines = tmp_path / "found.jsonl"
    images = str(fixed_dataset / "images")
    assert main(["stream", "--source", images, "--model", str(fixed_model()), "--jsonl", str(lines)]) == 0
    frames = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [[found["class"] for found in frame["detections"]] for frame in frames] == [["qr_code", "aztec"]] * 2


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
    monkeypatch.setattr("ssd_edge.runtime.stream.run.Stream.run", lambda stream: configs.append(stream.config))
    assert main(["stream", option, value, "--model", "m.onnx"]) == 0
    (found,) = configs[0].sources
    assert found.uri == source
    assert type(found.uri) is type(source)
    assert found.options == SourceOptions()


def test_stream_hands_on_all_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs: list[StreamConfig] = []
    monkeypatch.setattr("ssd_edge.runtime.stream.run.Stream.run", lambda stream: configs.append(stream.config))
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
        assert source.understanding is not None
        assert (source.loop, source.retries, source.understanding.classes) == (True, 2, ("a", "b"))
    assert (config.jsonl, config.show, config.latency, config.threads) == ("-", True, True, 3)
    assert config.recording == Recording(600.0, 10**10)
    assert config.web == WebConfig("0.0.0.0", 80, "auto")
    assert config.mqtt == MqttConfig("mqtt://host", qos=2)


@pytest.mark.parametrize("option", [["--loop"], ["--size", "1280x720"], ["--timeout", "3"], ["--classes", "a"]])
def test_options_of_sources_do_not_pass_over_those_of_a_file(
    option: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.toml").write_text('[[source]]\nuri = "a.mp4"\n')
    assert main(["stream", "--config", str(tmp_path / "a.toml"), *option]) == 2
    assert f"{option[0]} is about sources that are given as options" in complaint(capsys)


def test_a_missing_bundled_model_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ssd_edge.bundled.BUNDLED_MODEL", tmp_path / "absent.onnx")
    assert main(["stream", "--source", "."]) == 1
    assert "name a model with --model" in complaint(capsys)


@pytest.mark.parametrize(
    ("arguments", "web"),
    [
        (["--web"], WebConfig()),
        (["--web", "90"], WebConfig(port=90)),
        (["--web", ":90"], WebConfig(port=90)),
        (["--web", "[]:90"], WebConfig(port=90)),
        (["--web", "[::]:90"], WebConfig("::", 90)),
    ],
)
def test_where_the_page_is_unless_told(arguments: list[str], web: WebConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    configs: list[StreamConfig] = []
    monkeypatch.setattr("ssd_edge.runtime.stream.run.Stream.run", lambda stream: configs.append(stream.config))
    assert main(["stream", "--camera", "0", "--model", "m.onnx", *arguments]) == 0
    assert configs[0].web == web


@pytest.mark.parametrize(
    ("option", "default"),
    [
        ("--transport", SourceOptions.transport),
        ("--timeout", f"{SourceOptions.timeout_s:g} s"),
        ("--score", StreamConfig.score_threshold),
        ("--free-floor", f"{Recording.free_floor_bytes >> 20}MiB"),
        ("--snapshots-free-floor", f"{SnapshotsConfig.free_floor_bytes >> 20}MiB"),
        ("--log-format", StreamConfig.log_format),
        ("--mqtt-prefix", MqttConfig.prefix),
        ("--mqtt-qos", MqttConfig.qos),
        ("--mqtt-buffer", MqttConfig.buffer),
    ],
)
def test_help_states_the_defaults_of_the_library(
    option: str, default: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"({default})" in option_help("stream", option, monkeypatch, capsys)
