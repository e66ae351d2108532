"""Several sources in one stream: each has its own outputs, and none holds up or crowds out another."""

import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ssd_edge.errors import SourceError
from ssd_edge.runtime.results import Result
from ssd_edge.runtime.stream.config import SourceConfig, StreamConfig
from ssd_edge.runtime.stream.run import run_stream
from tests.fakes.scripted_sources import ScriptedPlace
from tests.fakes.sink_after import SinkAfter
from tests.runtime.stream.streams import count_frames, read_lines, write_video


def test_frames_of_a_file_under_way_leave_room_for_a_camera(model_path: Path) -> None:
    class Slow(SinkAfter):
        def __init__(self) -> None:
            self.seen: Counter[str] = Counter()

        def write(self, result: Result, drawn_bgr: NDArray[np.uint8]) -> None:
            self.seen[result.source] += 1
            time.sleep(0.02)

    sink = Slow()
    camera, file = ScriptedPlace([0.2, 1] * 10), ScriptedPlace([150], live=False)
    sources = [SourceConfig(camera.place, "camera", retries=0), SourceConfig(file.place, "file")]
    run_stream(StreamConfig(sources, model_path, threads=12), extra_sinks=[sink], progress=False)
    assert sink.seen == {"camera": 10, "file": 150}


def test_several_sources_share_the_detector_and_have_their_own_outputs(
    tmp_path: Path, model_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = write_video(tmp_path / "in.mp4", 20)
    sources = [SourceConfig(video, "door 1"), SourceConfig(video, "yard"), SourceConfig(video, "yard")]
    config = StreamConfig(sources, model_path, save=tmp_path / "out.mp4", jsonl=str(tmp_path / "a.jsonl"), threads=1)
    stats = run_stream(config)
    names = ["door 1", "yard", "yard (2)"]
    assert {name: one.frames for name, one in stats.sources.items()} == dict.fromkeys(names, 20)
    assert stats.frames == 60
    lines = read_lines(tmp_path / "a.jsonl")
    for name in names:
        of_source = [line for line in lines if line["source"] == name]
        assert [line["frame"] for line in of_source] == list(range(20))
        assert [len(line["detections"]) for line in of_source] == [1, 0] * 10
    assert {path.name: count_frames(path) for path in tmp_path.glob("out*")} == {
        "out-door_1.mp4": 20, "out-yard.mp4": 20, "out-yard_2.mp4": 20,
    }  # fmt: skip
    assert "all: 60 frames in" in capsys.readouterr().err


def test_a_slow_sink_never_stops_inference_and_loses_nothing_of_a_file(tmp_path: Path, model_path: Path) -> None:
    class Slow(SinkAfter):
        def __init__(self) -> None:
            self.seen: dict[str, list[int]] = {"camera": [], "file": []}

        def write(self, result: Result, drawn_bgr: NDArray[np.uint8]) -> None:
            time.sleep(0.01)
            self.seen[result.source].append(result.frame.index)

    camera = ScriptedPlace([1, 0.002] * 300 + ["fail"]).place  # 300 frames in about a second
    file = ScriptedPlace([20], live=False).place
    sources = [SourceConfig(camera, "camera", retries=0), SourceConfig(file, "file")]
    slow = Slow()
    config = StreamConfig(sources, model_path, jsonl=str(tmp_path / "a.jsonl"))
    with pytest.raises(SourceError, match="scripted failure"):
        run_stream(config, extra_sinks=[slow], progress=False)
    written = Counter(line["source"] for line in read_lines(tmp_path / "a.jsonl"))
    assert written["camera"] > 200  # the quick sink has what the slow one had no time for
    assert len(slow.seen["camera"]) < 150
    assert slow.seen["camera"] == sorted(slow.seen["camera"])
    assert slow.seen["file"] == list(range(20))
    assert written["file"] == 20


def test_a_dead_source_leaves_the_others_alone_and_is_told_to_sinks(tmp_path: Path, model_path: Path) -> None:
    class Listener(SinkAfter):
        def __init__(self) -> None:
            self.told: list[tuple[str, str, str]] = []

        def write(self, result: Result, drawn_bgr: NDArray[np.uint8]) -> None:
            pass

        def status(self, source: str, status: str, detail: str) -> None:
            self.told.append((source, status, detail))

    dead, file = ScriptedPlace(["no"]).place, ScriptedPlace([50], live=False).place
    sources = [SourceConfig(dead, "dead", retries=1), SourceConfig(file, "file")]
    listener = Listener()
    with pytest.raises(SourceError, match="nobody is there"):
        run_stream(StreamConfig(sources, model_path), extra_sinks=[listener], progress=False)
    assert [told[1:] for told in listener.told if told[0] == "dead"] == [
        ("reconnecting", "nobody is there"), ("failed", "nobody is there"),
    ]  # fmt: skip
    assert [told[1] for told in listener.told if told[0] == "file"] == ["ok", "ended"]
