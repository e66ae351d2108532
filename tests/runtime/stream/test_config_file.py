"""A TOML file says what options say, and what is wrong in it is named."""

import sys
from pathlib import Path
from typing import Any

import pytest

from ssd_edge.errors import UsageError
from ssd_edge.runtime.sinks.base import Recording
from ssd_edge.runtime.sources.base import SourceOptions
from ssd_edge.runtime.stream.config import MqttConfig, SourceConfig, StreamConfig, WebConfig
from ssd_edge.runtime.stream.config_file import read_stream_file

if sys.version_info < (3, 11):
    pytest.importorskip("tomli")

EVERYTHING = """
    model = "mine.onnx"
    score = 0.5
    threads = 2
    latency = true
    save = "out.mp4"
    jsonl = "-"
    show = false
    log_format = "json"

    [recording]
    segment = "10m"
    keep = "10GB"
    free_floor = "1GiB"

    [mqtt]
    url = "mqtts://me@broker"
    qos = 2
    password_file = "secret"

    [web]
    host = "0.0.0.0"
    port = 80
    token = "auto"

    [[source]]
    name = "door"
    uri = "rtsp://me:pw@host/a"
    transport = "udp"
    timeout_s = 3
    retries = 5
    classes = ["person"]
    min_size = 0.1
    [[source.zone]]
    name = "mat"
    polygon = [[0, 0], [1, 0], [1, 1]]

    [[source]]
    uri = 0
    size = "1280x720"
    fps = 30
    pixel_format = "MJPG"

    [[source]]
    uri = "a.mp4"
    loop = true
    realtime = true
"""


def read(tmp_path: Path, text: str) -> dict[str, Any]:
    path = tmp_path / "streams.toml"
    path.write_text(text)
    return read_stream_file(path)


def test_everything(tmp_path: Path) -> None:
    config = StreamConfig(**read(tmp_path, EVERYTHING))
    assert (config.model, config.score_threshold, config.threads, config.latency) == (Path("mine.onnx"), 0.5, 2, True)
    assert (config.save, config.jsonl, config.show, config.log_format) == (Path("out.mp4"), "-", False, "json")
    assert config.recording == Recording(600.0, 10**10, 2**30)
    assert config.mqtt == MqttConfig("mqtts://me@broker", qos=2, password_file=Path("secret"))
    assert config.web == WebConfig("0.0.0.0", 80, "auto")
    door, camera, file = config.sources
    assert (door.name, door.uri, door.retries) == ("door", "rtsp://me:pw@host/a", 5)
    assert door.options == SourceOptions(transport="udp", timeout_s=3)
    assert door.understanding is not None
    assert (door.understanding.classes, door.understanding.zones[0].name) == (("person",), "mat")
    assert camera == SourceConfig(0, options=SourceOptions((1280, 720), 30, "MJPG"))
    assert file == SourceConfig("a.mp4", options=SourceOptions(realtime=True), loop=True)


def test_the_file_that_the_documentation_shows(tmp_path: Path) -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "stream.md").read_text(encoding="utf-8")
    door, yard = read(tmp_path, text.partition("```toml\n")[2].partition("```")[0])["source"]
    assert (door.name, door.retries, yard.options.pixel_format) == ("door", 100, "MJPG")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scoer = 0.5", "streams.toml: unknown key 'scoer'; did you mean 'score'?"),
        ("score = 2", "streams.toml: score: got 2, expected a number from 0 to below 1"),
        ("score = true", "score: got True, expected a number"),
        ("threads = 0", "threads: got 0, expected a whole number from 1"),
        ("show = 1", "show: got 1, expected true or false"),
        ("score", "streams.toml is no TOML file"),
        ('source = "a.mp4"', r"streams.toml: expected [[source]], with two brackets"),
        ('[source]\nuri = "a.mp4"', r"expected [[source]], with two brackets"),
        ('[[source]]\nname = "door"', 'streams.toml: source 1: expected uri = "…"'),
        ('[[source]]\nuri = "a"\ntransprot = "udp"', "source 1 (a): unknown key 'transprot'; did you mean 'transport'"),
        ('[[source]]\nuri = "rtsp://me:pw@h/a"\nloop = 1', "source 1 (rtsp://***@h/a): loop: got 1, expected true"),
        (
            '[[source]]\nuri = "a"\nname = "door"\nsize = "big"',
            "source 1 (door): size: got 'big', expected a size such",
        ),
        ('[[source]]\nuri = "a"\npixel_format = "MJPEG"', "pixel_format: got 'MJPEG', expected four characters"),
        ('[[source]]\nuri = "a"\nfps = inf', "fps: got inf, expected a number above 0"),
        ('[[source]]\nuri = "a"\nretries = -1', "retries: got -1, expected a whole number from 0"),
        ('[[source]]\nuri = "a"\n[[source.zone]]\nname = "z"\npoligon = []', "unknown key 'poligon'"),
        ("[mqtt]\nqos = 1", "streams.toml: mqtt: expected url = …"),
        ('[mqtt]\nurl = "a"\npassword = "x"', "mqtt: unknown key 'password'; did you mean 'password_file'?"),
        ("web = true", "web: expected a table with host, port, token, got True"),
        ('[recording]\nkeep = "much"', "recording: keep: got 'much', expected a size such as 10GB"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, text)
    assert message in str(caught.value)
    assert "pw" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*none\.toml: No such file"):
        read_stream_file(tmp_path / "none.toml")
