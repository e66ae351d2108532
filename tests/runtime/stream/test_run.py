"""The whole loop on a model whose answers can be told by eye: files, images, bad input, sinks that fail."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ssd_edge.errors import ModelFileError, SinkError, SourceError, UsageError
from ssd_edge.images import ImageError
from ssd_edge.runtime.backends.base import Detector
from ssd_edge.runtime.sources.base import Frame, Place, Source
from ssd_edge.runtime.stream.config import SourceConfig, StreamConfig
from ssd_edge.runtime.stream.config_file import read_stream_file
from ssd_edge.runtime.stream.run import run_stream
from tests.fakes.sink_after import SinkAfter
from tests.fakes.turned_camera import TurnedCamera
from tests.runtime.stream.streams import RED_CELL, change_detectors, count_frames, read_lines, write_video


@pytest.fixture
def slow_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Detectors that take 20 ms more a batch than they need."""

    def slow_down(detector: Detector) -> None:
        infer = detector.infer

        def slow(images: NDArray[np.uint8]) -> Any:
            time.sleep(0.02)
            return infer(images)

        monkeypatch.setattr(detector, "infer", slow)

    change_detectors(monkeypatch, slow_down)


def test_a_video_becomes_a_video_and_json_lines(
    tmp_path: Path, model_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_video(tmp_path / "in.mp4", 30)
    config = StreamConfig(source, model_path, save=tmp_path / "out.mp4", jsonl=str(tmp_path / "out.jsonl"), threads=1)
    stats = run_stream(config)
    assert (stats.frames, stats.dropped) == (30, 0)
    assert count_frames(tmp_path / "out.mp4") == 30
    lines = read_lines(tmp_path / "out.jsonl")
    assert [line["frame"] for line in lines] == list(range(30))
    assert [len(line["detections"]) for line in lines] == [1, 0] * 15
    assert lines[0]["detections"][0]["class"] == "red"
    assert lines[0]["detections"][0]["box_xyxy"] == RED_CELL
    assert "30 frames in" in capsys.readouterr().err


def test_images_of_all_kinds_and_sizes(tmp_path: Path, model_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    red = Image.new("RGB", (64, 48), (255, 0, 0))
    red.convert("RGBA").save(folder / "a.png")
    red.convert("CMYK").save(folder / "b.tif")
    red.convert("L").resize((8, 8)).save(folder / "c.jpg")
    cv2.imwrite(str(folder / "d.png"), np.full((100, 30), 0xFFFF, np.uint16))
    config = StreamConfig(folder, model_path, save=tmp_path / "out", jsonl=str(tmp_path / "out.jsonl"))
    assert run_stream(config, progress=False).frames == 4
    lines = read_lines(tmp_path / "out.jsonl")
    assert [(line["name"], line["width"], line["height"]) for line in lines] == [
        ("a.png", 64, 48), ("b.tif", 64, 48), ("c.jpg", 8, 8), ("d.png", 30, 100),
    ]  # fmt: skip
    assert [{item["class"] for item in line["detections"]} for line in lines] == [
        {"red"}, {"red"}, set(), {"red"},
    ]  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.tif", "c.jpg", "d.png"]


def test_a_frame_size_that_changes_in_the_middle(
    tmp_path: Path, model_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # OpenCV scales such frames itself (see `VideoSource`); a source of your own need not.
    source = SourceConfig(Place(TurnedCamera.name, False, TurnedCamera))
    video, lines = tmp_path / "out.mkv", tmp_path / "out.jsonl"
    stats = run_stream(StreamConfig([source], model_path, save=video, jsonl=str(lines)), progress=False)
    assert stats.frames == count_frames(video) == 6
    boxes = [line["detections"][0]["box_xyxy"] for line in read_lines(lines)]
    assert boxes == [[12, 16, 24, 32]] * 3 + [RED_CELL] * 3
    assert [record.getMessage() for record in caplog.records] == [
        f"{video}: the frame size has changed; it is scaled to the first one's"
    ]


def test_images_of_several_sizes_become_a_video(tmp_path: Path, model_path: Path) -> None:
    for index, size in enumerate([(64, 48), (48, 64), (200, 100)]):
        Image.new("RGB", size).save(tmp_path / f"{index}.png")
    run_stream(StreamConfig(f"{tmp_path}/*.png", model_path, save=tmp_path / "out.mkv"), progress=False)
    assert count_frames(tmp_path / "out.mkv") == 3


def test_the_score_threshold_and_the_end_after_some_frames(tmp_path: Path, model_path: Path) -> None:
    source = write_video(tmp_path / "in.avi", 30)
    config = StreamConfig(source, model_path, jsonl=str(tmp_path / "a.jsonl"), score_threshold=0.999, max_frames=4)
    assert run_stream(config, progress=False).frames == 4
    assert [line["detections"] for line in read_lines(tmp_path / "a.jsonl")] == [[]] * 4


def test_bad_input_is_named_and_nothing_is_lost(tmp_path: Path, model_path: Path) -> None:
    video = write_video(tmp_path / "in.mp4", 3)
    old = tmp_path / "old.jsonl"
    old.write_text("old\n")
    cases = [
        (StreamConfig(video, tmp_path / "no.onnx", jsonl=str(old)), ModelFileError, r"no\.onnx"),
        (StreamConfig(tmp_path / "no.mp4", model_path, jsonl=str(old)), SourceError, r"no\.mp4"),
        (StreamConfig(video, model_path, save=tmp_path / "a.xyz", jsonl=str(old)), SinkError, r"a\.xyz"),
        (StreamConfig(video, model_path, save=video, jsonl=str(old)), SinkError, "is an input"),
    ]
    for config, error, message in cases:
        with pytest.raises(error, match=message):
            run_stream(config, progress=False)
    assert old.read_text() == "old\n"
    assert count_frames(video) == 3


def test_a_sink_that_fails_is_told_once_and_leaves_the_others_alone(
    tmp_path: Path, model_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(SinkAfter):
        def act(self) -> None:
            raise SinkError("broker gone")

    config = StreamConfig(
        write_video(tmp_path / "in.mp4", 30), model_path, save=tmp_path / "out.mp4", jsonl=str(tmp_path / "a.jsonl")
    )
    with pytest.raises(SinkError, match="broker gone"):
        run_stream(config, extra_sinks=[Failing(10)], progress=False)
    assert count_frames(tmp_path / "out.mp4") == len(read_lines(tmp_path / "a.jsonl")) == 30
    assert caplog.text.count("broker gone") == 1


def test_a_network_camera_loses_old_frames_and_the_recording_survives_its_end(
    tmp_path: Path,
    slow_model: None,
    model_path: Path,
    network_camera: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = tmp_path / "a.jsonl"
    source = SourceConfig(network_camera(100), retries=0)
    config = StreamConfig([source], model_path, save=tmp_path / "a.mkv", jsonl=str(lines))
    with pytest.raises(SourceError, match="stopped after 100 frames"):
        run_stream(config)
    indexes = [line["frame"] for line in read_lines(lines)]
    assert indexes == sorted(set(indexes))
    assert 1 < len(indexes) < 80
    assert count_frames(tmp_path / "a.mkv") >= 1
    shown = capsys.readouterr().err
    assert f"{len(indexes)} frames in" in shown
    assert f"{indexes[-1] + 1 - len(indexes)} dropped" in shown
    assert "s3cret" not in shown + lines.read_text()


def test_a_sink_can_end_the_stream(tmp_path: Path, model_path: Path) -> None:
    config = StreamConfig(write_video(tmp_path / "in.mp4", 300), model_path)
    assert 10 <= run_stream(config, extra_sinks=[SinkAfter(10)], progress=False).frames < 40


def test_a_frame_that_is_none_loses_no_earlier_one(model_path: Path) -> None:
    class Bad(Source):
        name = "bad"

        def frames(self) -> Iterator[Frame]:
            for index in range(6):
                image = np.zeros((48, 64, 3) if index < 5 else (48, 64), np.uint8)
                yield Frame(image, index, time.monotonic(), self.name)

        def close(self) -> None:
            pass

    sink = SinkAfter(99)
    config = StreamConfig([SourceConfig(Place("bad", False, Bad))], model_path, threads=2)
    with pytest.raises(ImageError, match="frame 0 is uint8"):
        run_stream(config, extra_sinks=[sink], progress=False)
    assert 99 - sink.left == 5


def test_tracks_zones_and_lines_come_from_the_file(tmp_path: Path, model_path: Path) -> None:
    pytest.importorskip("trackers", reason="no trackers")
    write_video(tmp_path / "in.mp4", 30)
    (tmp_path / "a.toml").write_text(f"""
        jsonl = "{tmp_path}/a.jsonl"
        [[source]]
        uri = "{tmp_path}/in.mp4"
        name = "door"
        classes = ["red"]
        track = {{ frames = 1 }}  # it is there in every second frame only
        [[source.zone]]
        name = "left"
        polygon = [[0, 0], [0.6, 0], [0.6, 1], [0, 1]]
    """)
    run_stream(StreamConfig(model=model_path, **read_stream_file(tmp_path / "a.toml")), progress=False)
    lines = read_lines(tmp_path / "a.jsonl")
    assert {line["source"] for line in lines} == {"door"}
    assert [event for line in lines for event in line["events"]] == [
        {"kind": "enter", "place": "left", "track": 1, "class": "red"}
    ]
    assert lines[-1]["counts"] == {"left": {"inside": 1}}


def test_what_is_no_sink_is_refused(model_path: Path, tmp_path: Path) -> None:
    class Print:
        def write(self, *_: Any) -> None: ...

    printer: Any = Print()
    config = StreamConfig([SourceConfig(tmp_path / "absent.png")], model_path)
    with pytest.raises(UsageError, match=r"Print is no sink; derive it from ssd_edge\.runtime\.sinks\.base\.Sink"):
        run_stream(config, extra_sinks=[printer])
