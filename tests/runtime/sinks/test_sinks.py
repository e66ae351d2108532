"""Outputs are checked before they are begun, hold what was seen, and never destroy an input."""

import json
import logging
import os
import sys
from contextlib import closing, nullcontext
from pathlib import Path
from unittest.mock import Mock

import cv2
import numpy as np
import pytest

from ssd_edge.detections import Detections
from ssd_edge.errors import SinkError
from ssd_edge.runtime.results import Result
from ssd_edge.runtime.sinks.base import EndOfStream, Sink
from ssd_edge.runtime.sinks.images import ImageSink, ImagesSink
from ssd_edge.runtime.sinks.jsonl import JsonLinesSink
from ssd_edge.runtime.sinks.save import save_sink
from ssd_edge.runtime.sinks.video_opencv import VideoSink
from ssd_edge.runtime.sinks.window import WindowSink
from ssd_edge.runtime.sources.base import Frame
from ssd_edge.runtime.sources.find import open_source
from ssd_edge.runtime.sources.images import ImageSource
from tests.fakes.any_source import AnySource

FOUND = Detections(np.array([[1, 2.5, 30, 40.123]]), np.array([0.75]), np.array([1]))


def frame(index: int = 0, size_hw: tuple[int, int] = (48, 64), at: float = 0.0, name: str = "any", grey: int = 200):
    return Frame(np.full((*size_hw, 3), grey, np.uint8), index, at, name)


def result(frame: Frame, source: str = "any") -> Result:
    return Result(source, frame, FOUND, ("a", "ß"), age_ms=12.34)


def feed(sink: Sink, *frames: Frame) -> None:
    with closing(sink):
        for item in frames:
            sink.write(result(item), item.image_bgr)


def read_video(path: Path) -> tuple[float, list[np.ndarray]]:
    capture = cv2.VideoCapture(str(path))
    images = []
    while (image := capture.read()[1]) is not None:
        images.append(image)
    return capture.get(cv2.CAP_PROP_FPS), images


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".avi"])
def test_video(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "new folder" / f"out{suffix}"
    feed(VideoSink(path, AnySource()), *(frame(index) for index in range(5)))
    fps, images = read_video(path)
    assert (fps, len(images), images[0].shape) == (10.0, 5, (48, 64, 3))
    assert np.abs(images[4].astype(int) - 200).max() < 8


def test_video_letterboxes_frames_of_another_size_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        feed(VideoSink(tmp_path / "a.avi", AnySource()), frame(0), frame(1, (48, 32)), frame(2, (96, 64)))
    _, images = read_video(tmp_path / "a.avi")
    assert [image.shape for image in images] == [(48, 64, 3)] * 3
    columns = images[1].mean(axis=(0, 2))
    assert columns[20:44].min() > 180
    assert max(columns[:12].max(), columns[52:].max()) < 20
    assert len(caplog.records) == 1


def test_video_of_a_live_source_plays_in_real_time(tmp_path: Path) -> None:
    # At 10 FPS: half a second without frames is filled, frames that come too fast are left out.
    shots = [(0.0, 50), (0.1, 100), (0.6, 150), (0.61, 0), (0.7, 200)]
    frames = [frame(i, at=100 + at, grey=grey) for i, (at, grey) in enumerate(shots)]
    feed(VideoSink(tmp_path / "a.avi", AnySource(live=True)), *frames)
    greys = [round(float(image.mean()), -1) for image in read_video(tmp_path / "a.avi")[1]]
    assert greys == [50, 100, 150, 150, 150, 150, 150, 200]


def test_video_of_odd_size(tmp_path: Path) -> None:
    feed(VideoSink(tmp_path / "a.mp4", AnySource()), frame(0, (49, 65)), frame(1, (49, 65)))
    assert len(read_video(tmp_path / "a.mp4")[1]) == 2


def test_a_video_that_cannot_be_encoded(tmp_path: Path) -> None:
    with closing(VideoSink(tmp_path / "a.mp4", AnySource())) as sink, pytest.raises(SinkError, match="1×1 pixels"):
        sink.write(result(frame(0, (1, 1))), np.zeros((1, 1, 3), np.uint8))


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".avi"])
def test_a_video_that_lost_frames_says_so(tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]) -> None:
    resource = pytest.importorskip("resource", reason="no limits")
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    sink = VideoSink(tmp_path / f"a{suffix}", AnySource())
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))
    try:
        for index in range(200):
            sink.write(result(frame(index)), np.roll(noise, index, axis=1))
        with pytest.raises(SinkError, match=r"holds \d+ of the 200 frames"):
            sink.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert capfd.readouterr().err == ""
    sink.close()  # once more does no harm


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_video_ends_playable_before_the_disk_is_full(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = iter([17 * 2**20, 16 * 2**20, 16 * 2**20 - 1])
    monkeypatch.setattr("shutil.disk_usage", lambda _: Mock(free=next(free)))
    path = tmp_path / f"a{suffix}"
    with pytest.raises(SinkError, match="ends after 2 frames: less than 16 MiB"):
        feed(VideoSink(path, AnySource()), *(frame(index) for index in range(9)))
    assert len(read_video(path)[1]) == 2


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    feed(JsonLinesSink(str(path), AnySource()), frame(0), frame(7, (9, 8), at=2.0, name="é.png"))
    first, second = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    assert second["time"] - first["time"] == pytest.approx(2)
    assert second == result(frame(7, (9, 8), at=2.0, name="é.png")).record()
    detection = {"class": "ß", "label": 1, "score": 0.75, "box_xyxy": [1.0, 2.5, 30.0, 40.12]}
    assert first["detections"] == second["detections"] == [detection]
    assert (second["source"], second["name"], second["width"], second["height"]) == ("any", "é.png", 8, 9)


def test_json_lines_are_added_to_a_file_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for index in range(3):  # from nothing, after a whole line, after half of one
        feed(JsonLinesSink(str(path), AnySource(), append=True), frame(index))
        if index == 1:
            path.write_text(path.read_text() + '{"schema": 1, "sour')
    first, second, cut, third = path.read_text().splitlines()
    assert [json.loads(line)["frame"] for line in (first, second, third)] == [0, 1, 2]
    assert cut == '{"schema": 1, "sour'
    feed(JsonLinesSink("/dev/null", AnySource(), append=True), frame(9))  # no file that has an end
    feed(JsonLinesSink(str(path), AnySource()), frame(9))
    assert len(path.read_text().splitlines()) == 1


def test_json_lines_of_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    feed(JsonLinesSink(str(tmp_path / "a.jsonl"), AnySource()), frame(0, name=name), frame(1))
    first, _ = map(json.loads, (tmp_path / "a.jsonl").read_text(encoding="ascii").splitlines())
    assert first["name"] == name


def test_json_lines_to_the_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    feed(JsonLinesSink("-", AnySource()), frame(3))
    assert json.loads(capsys.readouterr().out)["frame"] == 3
    assert not sys.stdout.closed


def test_json_lines_to_a_reader_that_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr(sys, "stdout", os.fdopen(writer, "w"))
    with closing(JsonLinesSink("-", AnySource())) as sink, pytest.raises(EndOfStream):
        sink.write(result(frame()), frame().image_bgr)
    sys.stdout.close()


@pytest.fixture
def named_pipe(tmp_path: Path) -> Path:
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def test_json_lines_to_a_named_pipe_and_to_its_reader_that_has_gone(
    named_pipe: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    reader = os.open(named_pipe, os.O_RDONLY | os.O_NONBLOCK)
    with closing(JsonLinesSink(str(named_pipe), AnySource())) as sink:
        sink.write(result(frame(5)), frame().image_bgr)
        assert json.loads(os.read(reader, 4096))["frame"] == 5
        os.close(reader)
        with pytest.raises(EndOfStream):
            sink.write(result(frame()), frame().image_bgr)
    os.write(sys.stdout.fileno(), b"still there")
    assert capfd.readouterr().out == "still there"


def test_json_lines_to_a_named_pipe_that_nothing_reads(named_pipe: Path) -> None:
    with pytest.raises(SinkError, match="start its reader first"):
        JsonLinesSink(str(named_pipe), AnySource())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("target", ["/dev/full", "-"])
def test_json_lines_to_a_full_disk(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    full = open("/dev/full", "w")  # noqa: SIM115
    monkeypatch.setattr(sys, "stdout", full)
    with (
        pytest.raises(SinkError, match="is the disk full"),
        closing(JsonLinesSink(target, AnySource())) as sink,
    ):
        sink.write(result(frame()), frame().image_bgr)
    full.close()


def test_images_keep_their_names(tmp_path: Path) -> None:
    names = ["a.png", "grey.pgm", "sub/b.JPG"]
    sink = save_sink(tmp_path / "out", ImageSource("in", tuple(tmp_path / "in" / name for name in names)))
    feed(sink, *(frame(index, name=name) for index, name in enumerate(names)))
    written = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    assert written == names
    assert (cv2.imread(str(tmp_path / "out" / "a.png")) == 200).all()


@pytest.mark.parametrize("name", ["camera 0", "http://cam/video.jpg"])
def test_frames_that_are_no_image_files_are_numbered(tmp_path: Path, name: str) -> None:
    feed(save_sink(tmp_path / "out", AnySource()), frame(0, name=name), frame(3, name=name))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["000000.jpg", "000003.jpg"]


def test_frames_of_a_video_can_go_beside_it(tmp_path: Path) -> None:
    (tmp_path / "in.mp4").touch()
    feed(ImagesSink(tmp_path, AnySource(paths=(tmp_path / "in.mp4",))), frame(0))
    assert (tmp_path / "000000.jpg").exists()


def test_a_folder_of_links_is_saved_under_their_names_and_its_originals_stay(tmp_path: Path) -> None:
    original, links, out = tmp_path / "originals" / "a.png", tmp_path / "links", tmp_path / "new" / "out"
    original.parent.mkdir()
    links.mkdir()
    cv2.imwrite(str(original), np.zeros((4, 4, 3), np.uint8))
    before = original.read_bytes()
    for name in ("1.png", "2.png"):
        (links / name).symlink_to(original)
    (links / "broken.png").symlink_to(tmp_path / "gone.png")
    for _ in range(2):  # into a new folder, then over the outputs of the first time
        source = open_source(links)
        feed(save_sink(out, source), *source.frames())
    assert sorted(path.name for path in out.rglob("*")) == ["1.png", "2.png"]
    assert original.read_bytes() == before
    for folder in (links, original.parent, tmp_path / "nowhere" / ".." / "links"):
        if folder == original.parent:
            (links / "a.png").symlink_to(original)
        with pytest.raises(SinkError, match="is an input"):
            save_sink(folder, open_source(links))


def test_grey_formats_get_grey_images(tmp_path: Path) -> None:
    feed(save_sink(tmp_path / "out.pgm", ImageSource("a.png", (tmp_path / "a.png",))), frame())
    assert cv2.imread(str(tmp_path / "out.pgm"), cv2.IMREAD_UNCHANGED).tolist() == [[200] * 64] * 48


def test_an_image_that_cannot_be_encoded(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sink = save_sink(tmp_path / "out.webp", ImageSource("a.png", (tmp_path / "a.png",)))
    with pytest.raises(SinkError, match=r"20000×2 pixels as \.webp"):
        feed(sink, frame(0, (2, 20_000)))
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().err == ""


def test_an_encoder_that_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cv2.imencode", Mock(side_effect=cv2.error("as OpenCV 4 does")))
    with pytest.raises(SinkError, match=r"64×48 pixels as \.jpg"):
        feed(ImagesSink(tmp_path, AnySource()), frame())


def test_one_image(tmp_path: Path) -> None:
    source = ImageSource("a.png", (tmp_path / "a.png",))
    feed(save_sink(tmp_path / "out.png", source), frame())
    assert cv2.imread(str(tmp_path / "out.png")).shape == (48, 64, 3)
    with pytest.raises(SinkError, match="one frame"):
        ImageSink(tmp_path / "out.png", AnySource())


def test_inputs_are_never_overwritten(tmp_path: Path) -> None:
    video, image, link = tmp_path / "in.mp4", tmp_path / "in.png", tmp_path / "link.mp4"
    for path in (video, image):
        path.write_bytes(b"precious")
    link.symlink_to(video)
    source = AnySource(paths=(video,))
    for sink in (lambda: VideoSink(link, source), lambda: JsonLinesSink(str(video), source)):
        with pytest.raises(SinkError, match="is an input"):
            sink()
    with pytest.raises(SinkError, match="is an input"):
        ImagesSink(tmp_path, ImageSource("in", (image,)))
    assert video.read_bytes() == image.read_bytes() == b"precious"


@pytest.mark.parametrize("name", ["file/out.mp4", "folder.mp4", "file/out.jsonl", "file/folder"])
def test_unwritable_outputs_are_found_at_once(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.mp4").mkdir()

    def open_sink() -> Sink:
        if name.endswith("jsonl"):
            return JsonLinesSink(str(tmp_path / name), AnySource())
        return save_sink(tmp_path / name, AnySource())

    with pytest.raises(SinkError, match="choose"):
        open_sink()


def test_checking_leaves_nothing_and_destroys_nothing(tmp_path: Path) -> None:
    (tmp_path / "old.jsonl").write_text("old")
    for sink in (VideoSink(tmp_path / "a.mp4", AnySource()), JsonLinesSink(str(tmp_path / "old.jsonl"), AnySource())):
        sink.close()
    assert [path.name for path in tmp_path.iterdir()] == ["old.jsonl"]
    assert (tmp_path / "old.jsonl").read_text() == "old"


def test_unknown_kind_of_file(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"\.webm is no known kind"):
        save_sink(tmp_path / "a.webm", AnySource())


def test_a_window_a_source_ends_at_q_at_esc_and_when_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    keys, opened, closed = [-1], [], []
    monkeypatch.setattr("subprocess.run", lambda *_, **__: None)
    monkeypatch.setattr("cv2.namedWindow", lambda title, _: opened.append(title))
    monkeypatch.setattr("cv2.imshow", lambda *_: None)
    monkeypatch.setattr("cv2.waitKey", lambda _: keys[-1])
    monkeypatch.setattr("cv2.getWindowProperty", lambda title, _: float(title not in closed))
    monkeypatch.setattr("cv2.destroyAllWindows", opened.clear)
    with closing(WindowSink()) as window:
        window.idle()  # before the first frame
        for source in ("door", "yard", "door"):
            window.write(result(frame(), source), frame().image_bgr)
        assert opened == ["ssd-edge: door", "ssd-edge: yard"]
        for key in (ord("x"), ord("q"), 27):
            keys.append(key)
            with pytest.raises(EndOfStream) if key != ord("x") else nullcontext():
                window.idle()
        keys.append(-1)
        window.idle()
        closed.append("ssd-edge: yard")
        for end in (window.idle, lambda: window.write(result(frame(), "yard"), frame().image_bgr)):
            with pytest.raises(EndOfStream):
                end()
    assert opened == []


def test_a_window_without_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    if sys.platform != "linux":
        pytest.skip("other systems always have a display")
    with pytest.raises(SinkError, match="cannot open a window"):
        WindowSink()
