"""The whole loop on a model whose answers can be told by eye: files, signals, bad input, memory."""

import json
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from ssd_edge.detections import Detections
from ssd_edge.errors import ModelFileError, SinkError, SourceError
from ssd_edge.runtime.sinks import Sink
from ssd_edge.runtime.sources import Frame, Source
from ssd_edge.runtime.stream import StreamConfig, run_stream

RED_CELL = [16.0, 12.0, 32.0, 24.0]  # second row, second column of the model's 4×4 cells, at 64×48


class SinkAfter(Sink):
    """Does something at frame number `count`: here, it wants no more."""

    needs_drawing = False

    def __init__(self, count: int) -> None:
        self.left = count

    def write(self, frame: Frame, detections: Detections, drawn_bgr: np.ndarray) -> bool:
        self.left -= 1
        return self.left > 0 or self.act()

    def act(self) -> bool:
        return False


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
    assert [(line["source"], line["width"], line["height"]) for line in lines] == [
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
    tmp_path: Path, model_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # OpenCV scales such frames itself (see `VideoSource`); a source of another kind may not.
    monkeypatch.setattr("ssd_edge.runtime.stream.open_source", lambda *_, **__: TurnedCamera())
    video, lines = tmp_path / "out.mkv", tmp_path / "out.jsonl"
    stats = run_stream(StreamConfig("turned", model_path, save=video, jsonl=str(lines)), progress=False)
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


def test_what_was_written_before_an_error_can_be_read(tmp_path: Path, model_path: Path) -> None:
    class Failing(SinkAfter):
        def act(self) -> bool:
            raise SinkError("broker gone")

    config = StreamConfig(
        write_video(tmp_path / "in.mp4", 30), model_path, save=tmp_path / "out.mp4", jsonl=str(tmp_path / "a.jsonl")
    )
    with pytest.raises(SinkError, match="broker gone"):
        run_stream(config, extra_sinks=[Failing(10)], progress=False)
    assert count_frames(tmp_path / "out.mp4") == len(read_lines(tmp_path / "a.jsonl")) == 9


def test_a_network_camera_loses_old_frames_and_the_recording_survives_its_end(
    tmp_path: Path, model_path: Path, network_camera: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    class Slow(SinkAfter):
        def act(self) -> bool:
            time.sleep(0.02)  # the camera sends a frame in 5 ms
            return True

    lines = tmp_path / "a.jsonl"
    config = StreamConfig(network_camera(100), model_path, save=tmp_path / "a.mkv", jsonl=str(lines))
    with pytest.raises(SourceError, match="stopped after 100 frames"):
        run_stream(config, extra_sinks=[Slow(0)])
    indexes = [line["frame"] for line in read_lines(lines)]
    assert indexes == sorted(set(indexes))
    assert 1 < len(indexes) < 80
    assert count_frames(tmp_path / "a.mkv") >= 1
    shown = capsys.readouterr().err
    assert f"{len(indexes)} frames in" in shown
    assert f"{indexes[-1] + 1 - len(indexes)} dropped" in shown
    assert "s3cret" not in shown + lines.read_text()


def test_a_sink_can_end_the_stream(tmp_path: Path, model_path: Path) -> None:
    config = StreamConfig(write_video(tmp_path / "in.mp4", 30), model_path)
    assert run_stream(config, extra_sinks=[SinkAfter(10)], progress=False).frames == 10


STREAM_SCRIPT = """
import sys
from pathlib import Path
from ssd_edge.runtime.sinks import Sink
from ssd_edge.runtime.stream import StreamConfig, run_stream

class Pace(Sink):  # as slow as a camera, so that the signal comes in the middle
    needs_drawing = False

    def write(self, frame, detections, drawn_bgr):
        import time
        time.sleep(0.01)
        return True

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


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc")
def test_memory_stays_flat(tmp_path: Path, model_path: Path) -> None:
    source = write_video(tmp_path / "in.avi", 6000)
    script = """
        import json, os, sys
        from pathlib import Path
        from ssd_edge.runtime.sinks import Sink
        from ssd_edge.runtime.stream import StreamConfig, run_stream

        class Memory(Sink):
            needs_drawing = False
            megabytes = []

            def write(self, frame, detections, drawn_bgr):
                if frame.index % 100 == 0:
                    pages = int(Path("/proc/self/statm").read_text().split()[1])
                    self.megabytes.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
                return True

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
