"""The whole loop on a model whose answers can be told by eye: files, signals, bad input, memory."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from typing import Any
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
from PIL import Image

from ssd_edge.detections import Detections
from ssd_edge.errors import ModelFileError, SinkError, SourceError, UsageError
from ssd_edge.images import ImageError
from ssd_edge.runtime.backends.base import Detector
from ssd_edge.runtime.cuda.errors import CudaFatalError
from ssd_edge.runtime.detector import open_detector
from ssd_edge.runtime.host.gpu_use import look_for_gpu
from ssd_edge.runtime.results import Result
from ssd_edge.runtime.sinks.base import EndOfStream, Sink
from ssd_edge.runtime.sources.base import Frame, Place, Source, SourceOptions
from ssd_edge.runtime.stream import run as stream
from ssd_edge.runtime.stream.config import SourceConfig
from ssd_edge.runtime.stream.config_file import read_stream_file
from ssd_edge.runtime.stream.run import StreamConfig, run_stream
from ssd_edge.runtime.stream.stop import END_S, Stop
from tests.fakes.scripted_sources import ScriptedPlace

RED_CELL = [16.0, 12.0, 32.0, 24.0]  # second row, second column of the model's 4×4 cells, at 64×48


class SinkAfter(Sink):
    """Does something from frame number `count` on: here, it wants no more."""

    needs_drawing = False

    def __init__(self, count: int) -> None:
        self.left = count

    def write(self, result: Result, drawn_bgr: np.ndarray) -> None:
        self.left -= 1
        if self.left <= 0:
            self.act()

    def act(self) -> None:
        raise EndOfStream


@pytest.fixture
def slow_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Detectors that take 20 ms more a batch than they need."""

    def open_slow(*arguments: Any, **options: Any) -> Detector:
        detector = open_detector(*arguments, **options)
        infer = detector.infer
        detector.infer = lambda images: (time.sleep(0.02), infer(images))[1]
        return detector

    monkeypatch.setattr("ssd_edge.runtime.stream.run.open_detector", open_slow)


def write_video(path: Path, frames: int) -> Path:
    """64×48 at 20 FPS; every second frame shows a red cell."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 20.0, (64, 48))
    for index in range(frames):
        image = np.zeros((48, 64, 3), np.uint8)
        if index % 2 == 0:
            image[12:24, 16:32] = (0, 0, 255)
        writer.write(image)
    writer.release()
    return path


def count_frames(path: Path) -> int:
    capture = cv2.VideoCapture(str(path))
    count = 0
    while capture.grab():
        count += 1
    return count


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


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


class TurnedCamera(Source):
    """Three frames upright, then three across; each has a red cell, the second row's second of 4×4."""

    name = "turned camera"

    def frames(self) -> Iterator[Frame]:
        for index in range(6):
            height, width = (64, 48) if index < 3 else (48, 64)
            image = np.zeros((height, width, 3), np.uint8)
            image[height // 4 : height // 2, width // 4 : width // 2] = (0, 0, 255)
            yield Frame(image, index, time.monotonic(), self.name)

    def close(self) -> None:
        pass


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


def test_one_file_for_two_outputs_is_refused_and_untouched(tmp_path: Path, model_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "in.png")
    same, link = tmp_path / "same.png", tmp_path / "link.png"
    same.write_text("old")
    link.symlink_to(same)
    for name in (same, link):
        with pytest.raises(SinkError, match="--save and --jsonl both"):
            run_stream(StreamConfig(tmp_path / "in.png", model_path, save=same, jsonl=str(name)), progress=False)
    assert same.read_text() == "old"


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


class Recorded:
    """Stands for a detector with two slots; writes down the order of what is asked of it."""

    slots, batch = 2, 1

    def __init__(self) -> None:
        self.order: list[str] = []
        self.count = 0

    def submit(self, frames: list[str]) -> None:
        self.order.append("+" + "".join(frames))

    def wait(self, timeout_s: float = 0.0) -> bool:
        return True

    def collect(self) -> list[Detections]:
        self.count += 1
        self.order.append(f"-{self.count}")
        return []


class Arrivals:
    """Stands for a mixer: gives these batches, and nothing where there is a " " unless it is waited for."""

    def __init__(self, batches: str) -> None:
        self.batches = list(batches)

    def wake(self) -> None:
        pass

    def take(self, most: int, *, until: Callable[[], bool]) -> list[Any]:
        while self.batches:
            name = self.batches.pop(0)
            if name != " ":
                return [(None, Mock(image_bgr=name))]
            if until():
                break
        return []


@pytest.mark.parametrize(
    ("arrivals", "order"),
    [
        ("abc", "+a +b -1 +c -2 -3"),  # two under way
        ("a b c", "+a -1 +b -2 +c -3"),  # slower than the detector: none is held back for the next
        ("a bc d", "+a -1 +b +c -2 -3 +d -4"),
        ("", ""),
    ],
)
def test_batches_overlap_where_the_next_is_there(arrivals: str, order: str) -> None:
    detector: Any = Recorded()
    mixer: Any = Arrivals(arrivals)
    for _ in stream._detect(detector, mixer, deque(), Stop(), StreamConfig([], Path())):
        pass
    assert detector.order == order.split()


def test_an_output_is_completed_before_a_detector_that_hangs_when_it_is_closed(
    tmp_path: Path, model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []

    def open_hanging(*arguments: Any, **options: Any) -> Detector:
        detector = open_detector(*arguments, **options)
        detector._release = lambda: order.append("detector")
        return detector

    class Closed(SinkAfter):
        def close(self) -> None:
            order.append("output")

    monkeypatch.setattr("ssd_edge.runtime.stream.run.open_detector", open_hanging)
    run_stream(StreamConfig(write_video(tmp_path / "in.mp4", 3), model_path), extra_sinks=[Closed(9)], progress=False)
    assert order == ["output", "detector"]


def test_detections_that_take_too_long_at_the_end_are_given_up(
    tmp_path: Path, model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end, stopped_s = Event(), []

    def open_slow(*arguments: Any, **options: Any) -> Detector:
        detector = open_detector(*arguments, **options)
        infer = detector.infer

        def slow(images: Any) -> Any:
            if not stopped_s:
                stopped_s.append(time.monotonic())
                signal.raise_signal(signal.SIGTERM)
            end.wait(20)
            return infer(images)

        detector.infer = slow
        return detector

    class Closed(SinkAfter):
        closed_s = 0.0

        def close(self) -> None:
            self.closed_s = time.monotonic()
            end.set()  # only now the detector can be closed

    monkeypatch.setattr("ssd_edge.runtime.stream.run.open_detector", open_slow)
    sink = Closed(99)
    stats = run_stream(
        StreamConfig(write_video(tmp_path / "in.mp4", 9), model_path, threads=2), extra_sinks=[sink], progress=False
    )
    assert (stats.frames, sink.left) == (0, 99)
    assert sink.closed_s - stopped_s[0] < END_S


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


def test_frames_of_a_file_under_way_leave_room_for_a_camera(model_path: Path) -> None:
    class Slow(SinkAfter):
        def __init__(self) -> None:
            self.seen: Counter[str] = Counter()

        def write(self, result: Result, drawn_bgr: np.ndarray) -> None:
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

        def write(self, result: Result, drawn_bgr: np.ndarray) -> None:
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

        def write(self, result: Result, drawn_bgr: np.ndarray) -> None:
            pass

        def status(self, *told: str) -> None:
            self.told.append(told)

    dead, file = ScriptedPlace(["no"]).place, ScriptedPlace([50], live=False).place
    sources = [SourceConfig(dead, "dead", retries=1), SourceConfig(file, "file")]
    listener = Listener()
    with pytest.raises(SourceError, match="nobody is there"):
        run_stream(StreamConfig(sources, model_path), extra_sinks=[listener], progress=False)
    assert [told[1:] for told in listener.told if told[0] == "dead"] == [
        ("reconnecting", "nobody is there"), ("failed", "nobody is there"),
    ]  # fmt: skip
    assert [told[1] for told in listener.told if told[0] == "file"] == ["ok", "ended"]


def test_a_lost_gpu_ends_the_stream_at_once(tmp_path: Path, model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_lost(*arguments: Any, **options: Any) -> Detector:
        detector = open_detector(*arguments, **options)
        detector.infer = Mock(side_effect=CudaFatalError("illegal address"))
        return detector

    class Stuck(SinkAfter):
        def write(self, result: Result, drawn_bgr: np.ndarray) -> None:
            end.wait(20)

    end = Event()
    monkeypatch.setattr("ssd_edge.runtime.stream.run.open_detector", open_lost)
    sources = [SourceConfig(ScriptedPlace([1, 0.01] * 1000).place)]
    begin = time.monotonic()
    with pytest.raises(CudaFatalError, match="illegal address"):
        run_stream(StreamConfig(sources, model_path), extra_sinks=[Stuck(0)], progress=False)
    assert time.monotonic() - begin < 4
    end.set()


def test_one_transport_for_all_rtsp_sources(model_path: Path) -> None:
    sources = [SourceConfig("rtsp://a/b", options=SourceOptions(transport=transport)) for transport in ("tcp", "udp")]
    with pytest.raises(UsageError, match="expected one of them for all"):
        run_stream(StreamConfig(sources, model_path), progress=False)


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


STREAM_SCRIPT = """
import sys
from pathlib import Path
from ssd_edge.runtime.sinks.base import Sink
from ssd_edge.runtime.stream.run import StreamConfig, run_stream

class Pace(Sink):  # as slow as a camera, so that the signal comes in the middle
    needs_drawing = False

    def write(self, result, drawn_bgr):
        import time
        time.sleep(0.01)

source, model, video, lines = sys.argv[1:]
stats = run_stream(StreamConfig(source, Path(model), save=Path(video), jsonl=lines, threads=1), extra_sinks=[Pace()])
print(stats.frames)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_stream_with_all_outputs_complete(
    tmp_path: Path, model_path: Path, number: signal.Signals
) -> None:
    source = write_video(tmp_path / "in.mp4", 3000)
    video, lines = tmp_path / "out.mp4", tmp_path / "out.jsonl"
    command = [sys.executable, "-c", STREAM_SCRIPT, str(source), str(model_path), str(video), str(lines)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: lines.exists() and lines.read_text().count("\n") > 10)
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    frames = int(out)
    assert 10 < frames < 3000
    assert count_frames(video) == frames
    assert [line["frame"] for line in read_lines(lines)] == list(range(frames))
    assert f"{frames} frames in" in err
    assert "Traceback" not in err


def run_cli(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ssd_edge", "stream", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_signal_ends_what_waits_for_a_dead_server(tmp_path: Path, model_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and says nothing
        address = f"rtsp://me:s3cret@127.0.0.1:{silent.getsockname()[1]}/live"
        arguments = ["--rtsp", address, "--model", str(model_path), "--timeout", "30", "--jsonl", "-"]
        if find_spec("paho"):
            arguments += ["--mqtt", "mqtt://127.0.0.1:1"]  # away
        with run_cli(*arguments) as process:
            connection, _ = silent.accept()
            begin = time.monotonic()
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=20)
            connection.close()
    assert (process.returncode, time.monotonic() - begin < 5) == (0, True), err
    assert "s3cret" not in err


def test_the_second_signal_ends_at_once(tmp_path: Path, model_path: Path) -> None:
    source = write_video(tmp_path / "in.mp4", 3000)
    script = """
        import sys, threading
        from pathlib import Path
        from ssd_edge.runtime.sinks.base import Sink
        from ssd_edge.runtime.stream.run import StreamConfig, run_stream

        class Stuck(Sink):
            def write(self, result, drawn_bgr):
                print("stuck", flush=True)
                threading.Event().wait()

        run_stream(StreamConfig(sys.argv[1], Path(sys.argv[2]), threads=1), extra_sinks=[Stuck()])
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(source), str(model_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "stuck\n"
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.wait(timeout=10)
    assert (process.returncode, time.monotonic() - begin < 1) == (-signal.SIGINT, True)


@pytest.mark.skipif(shutil.which("Xvfb") is None, reason="no Xvfb; sudo apt install xvfb")
def test_a_window_on_a_real_display(tmp_path: Path, model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = write_video(tmp_path / "in.mp4", 60)
    display = subprocess.Popen(
        ["Xvfb", "-displayfd", "1"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        monkeypatch.setenv("DISPLAY", f":{display.stdout.readline().strip()}")
        with run_cli("--video", str(video), "--model", str(model_path), "--show") as process:
            _, err = process.communicate(timeout=30)
    finally:
        display.terminate()
        display.communicate()
    assert process.returncode == 0
    assert err.startswith(f"{video}: 60 frames in"), err
    assert err.count("\n") == 1  # Qt has nothing to say


def test_logs_for_programs(tmp_path: Path, model_path: Path) -> None:
    video = write_video(tmp_path / "in.mp4", 5)
    arguments = ["--source", "rtsp://me:s3cret@127.0.0.1:1/x", "--video", str(video), "--model", str(model_path)]
    with run_cli(*arguments, "--retries", "0", "--log-format", "json") as process:
        _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    lines = [json.loads(line) for line in err.splitlines()]
    assert {"time", "level", "logger", "message"} <= set(lines[0])
    messages = [(line["level"], line["message"]) for line in lines]
    assert messages[0][0] == "warning"
    assert messages[0][1].startswith("rtsp://***@127.0.0.1:1/x: failed: cannot open")
    assert messages[-1][0] == "error"
    assert any(message.startswith("all: 5 frames") for _, message in messages)
    assert "s3cret" not in err


def test_a_stream_imports_only_what_is_asked_for(tmp_path: Path, model_path: Path) -> None:
    video = write_video(tmp_path / "in.mp4", 5)
    heavy = {"av", "paho", "supervision", "scipy", "starlette", "uvicorn", "prometheus_client", "torch", "matplotlib"}
    if not look_for_gpu().present:
        heavy |= {"cuda", "tensorrt", "tensorrt_rtx"}
    code = (
        "import sys; from ssd_edge.cli.main import main; main(sys.argv[1:]); "
        f"print(*sorted({heavy} & {{name.partition('.')[0] for name in sys.modules}}))"
    )
    arguments = ["stream", "--video", str(video), "--model", str(model_path)]
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert result.stdout == "\n"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc")
def test_memory_stays_flat(tmp_path: Path, model_path: Path) -> None:
    source = write_video(tmp_path / "in.avi", 6000)
    script = """
        import json, os, sys
        from pathlib import Path
        from ssd_edge.runtime.sinks.base import Sink
        from ssd_edge.runtime.stream.run import StreamConfig, run_stream

        class Memory(Sink):
            needs_drawing = False
            megabytes = []

            def write(self, result, drawn_bgr):
                if result.frame.index % 100 == 0:
                    pages = int(Path("/proc/self/statm").read_text().split()[1])
                    self.megabytes.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)

        source, model, video, lines = sys.argv[1:]
        config = StreamConfig(source, Path(model), save=Path(video), jsonl=lines, threads=1)
        run_stream(config, extra_sinks=[Memory()], progress=False)
        print(json.dumps(Memory.megabytes))
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(source), str(model_path)]
    command += [str(tmp_path / "out.mkv"), str(tmp_path / "out.jsonl")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    megabytes = json.loads(result.stdout)
    assert len(megabytes) == 60
    assert max(megabytes[40:]) - max(megabytes[10:20]) < 2  # a leak of one frame in ten would be 3.5 MB


def wait_for(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
