"""Every kind of source gives the same frames; every wrong one says what is wrong."""

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
from PIL import Image

from ssd_edge.errors import SourceError
from ssd_edge.runtime.sources.base import SourceOptions
from ssd_edge.runtime.sources.find import find_source, open_source
from ssd_edge.runtime.sources.images import ImageSource
from ssd_edge.runtime.sources.video import VideoSource, _camera_index


def write_video(path: Path, frames: int = 30) -> Path:
    """64×48, 20 FPS; noise, so that its size is in the frames and not in the headers."""
    rng = np.random.default_rng(0)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 20.0, (64, 48))
    for _ in range(frames):
        writer.write(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    writer.release()
    return path


@contextmanager
def silent_port() -> Iterator[int]:
    """A port that takes connections and never says anything."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@contextmanager
def web_server(folder: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_video_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_video(tmp_path / "a.mp4")
    with open_source(path) as source:
        assert (source.live, source.fps, source.frame_count, source.paths) == (False, 20.0, 30, (path,))
        frames = list(source.frames())
    assert [frame.index for frame in frames] == list(range(30))
    assert frames[0].image_bgr.shape == (48, 64, 3)
    assert frames[0].name == str(path)
    assert frames[0].captured_at <= frames[-1].captured_at
    assert not caplog.records


def test_a_cut_off_video_gives_what_is_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = write_video(tmp_path / "a.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 2])
    with caplog.at_level(logging.WARNING), open_source(tmp_path / "cut.avi") as source:
        count = len(list(source.frames()))
    assert 5 < count < 25
    assert f"{count} of the 30 frames" in caplog.text


def test_an_mp4_without_its_index_is_refused(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "a.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match=r"cut\.mp4 is no video"):
        open_source(tmp_path / "cut.mp4")


def test_a_video_whose_frame_size_changes_keeps_the_first(tmp_path: Path) -> None:
    jpegs = [cv2.imencode(".jpg", np.zeros((*size_hw, 3), np.uint8))[1] for size_hw in [(48, 64), (96, 64), (24, 32)]]
    (tmp_path / "a.mjpeg").write_bytes(b"".join(jpeg.tobytes() for jpeg in jpegs))
    with open_source(tmp_path / "a.mjpeg") as source:
        assert [frame.image_bgr.shape for frame in source.frames()] == [(48, 64, 3)] * 3


def test_a_folder_of_all_kinds_of_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    colour = Image.fromarray(np.full((6, 8, 3), [200, 100, 0], np.uint8))
    colour.convert("L").save(tmp_path / "1_grey.png")
    colour.convert("CMYK").save(tmp_path / "2_cmyk.jpg")
    (tmp_path / "3_broken.jpg").write_bytes(b"\xff\xd8 broken")
    colour.convert("RGBA").resize((20, 10)).save(tmp_path / "4_rgba.PNG")
    cv2.imwrite(str(tmp_path / "5_deep.tif"), np.full((6, 8), 0x8000, np.uint16))
    (tmp_path / "notes.txt").write_text("no image")
    with caplog.at_level(logging.WARNING), open_source(tmp_path) as source:
        assert source.frame_count == 5
        frames = list(source.frames())
    assert [frame.name for frame in frames] == ["1_grey.png", "2_cmyk.jpg", "4_rgba.PNG", "5_deep.tif"]
    assert [frame.image_bgr.shape for frame in frames] == [(6, 8, 3), (6, 8, 3), (10, 20, 3), (6, 8, 3)]
    assert all(frame.image_bgr.dtype == np.uint8 for frame in frames)
    assert "3_broken.jpg" in caplog.text
    with pytest.raises(SourceError, match="none of 1 images"):
        list(open_source(tmp_path / "3_broken.jpg").frames())


def test_a_glob_and_a_single_image(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/1.png", "b/2.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    found = open_source(f"{tmp_path}/*/1.*")
    assert isinstance(found, ImageSource)
    assert [frame.name for frame in found.frames()] == ["a/1.png", "b/1.png"]
    single = open_source(str(tmp_path / "b/2.jpg"))
    assert [frame.name for frame in single.frames()] == ["2.jpg"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.mp4", "no source"),
        ("text.mp4", "is no video"),
        ("empty", "no image in"),
        ("*.png", "no image in"),
        ("gopher://x/y", "unknown kind of address"),
    ],
)
def test_no_source(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=message):
        open_source(name if "://" in name else str(tmp_path / name))


@pytest.mark.parametrize("uri", [63, "63", "/dev/video63"])
def test_no_camera_says_which_exist(uri: int | str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glob.glob", lambda pattern: ["/dev/video1", "/dev/video0"])
    with pytest.raises(SourceError, match=r"no camera 63 .*there are /dev/video0, /dev/video1"):
        open_source(uri)


def test_digits_are_a_camera_only_where_nothing_is_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("63").mkdir()
    Image.new("RGB", (4, 4)).save("63/a.png")
    for folder in ("63", Path("63")):
        assert [frame.name for frame in open_source(folder).frames()] == ["a.png"]
    with pytest.raises(SourceError, match="no camera 63"):
        open_source(63)
    with pytest.raises(SourceError, match="no camera 64"):
        open_source("64")


@pytest.mark.parametrize("name", ["64", "/dev/video64", "rtsp://127.0.0.1:1/live"])
def test_a_path_is_never_a_camera_or_an_address(name: str) -> None:
    with pytest.raises(SourceError, match="no source"):
        open_source(Path(name))


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_an_address_that_never_answers_ends_in_time(scheme: str) -> None:
    with silent_port() as port, pytest.raises(SourceError, match="limit 1 s") as caught:
        open_source(f"{scheme}://admin:s3cret@127.0.0.1:{port}/live?token=s3cret", SourceOptions(timeout_s=1))
    assert "s3cret" not in str(caught.value)
    assert f"***@127.0.0.1:{port}/live" in str(caught.value)


def test_a_closed_port() -> None:
    with silent_port() as port:
        pass
    with pytest.raises(SourceError, match="cannot open rtsp"):
        open_source(f"rtsp://127.0.0.1:{port}/live", SourceOptions(timeout_s=5))


def test_a_video_on_a_web_server_is_a_file_and_not_live(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4")
    with web_server(tmp_path) as address, open_source(f"{address}/a.mp4") as source:
        assert (source.live, source.frame_count) == (False, 30)
        assert len(list(source.frames())) == 30


@pytest.mark.parametrize("falls_silent", [False, True])
def test_a_network_camera_that_is_lost(network_camera: Callable[..., str], falls_silent: bool) -> None:
    source = open_source(network_camera(20, falls_silent=falls_silent), SourceOptions(timeout_s=1))
    assert (source.live, source.frame_count) == (True, None)
    with source, pytest.raises(SourceError, match=r"http://\*\*\*@127.* stopped after 20 frames"):
        list(source.frames())


def test_a_live_source_that_ends_is_an_error(tmp_path: Path) -> None:
    capture = cv2.VideoCapture(str(write_video(tmp_path / "a.mp4", frames=3)))
    with VideoSource("camera 0", capture, live=True) as source:
        frames = source.frames()
        assert [next(frames).index for _ in range(3)] == [0, 1, 2]
        with pytest.raises(SourceError, match="camera 0 stopped after 3 frames"):
            next(frames)


@pytest.mark.parametrize(("uri", "name"), [(3, "3"), ("3", "3"), ("camera:3", "3"), ("camera:HD Cam", "HD Cam")])
def test_a_camera_may_come_later(uri: int | str, name: str) -> None:
    place = find_source(uri)
    assert (place.name, place.remote) == (f"camera {name}", True)


def test_a_camera_by_name(tmp_path: Path) -> None:
    for index, name in ((0, "Integrated IR"), (2, "HD Webcam C270"), (3, "HD Webcam C270"), (10, "Other")):
        (tmp_path / f"video{index}").mkdir()
        (tmp_path / f"video{index}" / "name").write_text(name + "\n")
    assert _camera_index("c270", tmp_path) == 2
    with pytest.raises(SourceError, match=r"no camera is called 'C920'; there are: 0 \(Integrated IR\), 2 .*10"):
        _camera_index("C920", tmp_path)


def test_what_is_asked_of_a_camera(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    asked: dict[int, float] = {}

    camera = Mock()
    camera.set.side_effect = asked.__setitem__
    camera.get.side_effect = lambda what: {cv2.CAP_PROP_FRAME_WIDTH: 640, cv2.CAP_PROP_FRAME_HEIGHT: 480}.get(what, 0)
    monkeypatch.setattr("cv2.VideoCapture", lambda *_: camera)
    open_source(0, SourceOptions(size_wh=(1280, 720), fps=30, pixel_format="MJPG"))
    assert list(asked) == [
        cv2.CAP_PROP_FOURCC, cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FPS,
    ]  # fmt: skip
    assert list(asked.values()) == [cv2.VideoWriter.fourcc(*"MJPG"), 1280, 720, 30]
    assert "camera 0 gives 640×480 pixels, not the 1280×720 asked for" in caplog.text


def test_damaged_frames_are_skipped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    good = iter([True, False, False, True])
    capture = Mock()
    capture.get.return_value = 0
    capture.grab.side_effect = [True] * 4 + [False]
    capture.retrieve.side_effect = lambda: (True, image) if next(good) else (False, None)
    source = VideoSource("a.mp4", capture, live=False)
    assert [frame.index for frame in source.frames()] == [0, 3]
    assert source.corrupt == 2


def test_nothing_but_damaged_frames_is_an_error() -> None:
    capture = Mock()
    capture.get.return_value = 0
    capture.retrieve.return_value = (False, None)
    with pytest.raises(SourceError, match="100 frames in a row are damaged"):
        list(VideoSource("camera 0", capture, live=True).frames())


def test_a_file_in_real_time_is_like_a_camera(tmp_path: Path) -> None:
    with open_source(write_video(tmp_path / "a.mp4", frames=5), SourceOptions(realtime=True)) as source:
        assert (source.live, source.fps, source.frame_count) == (True, 20.0, 5)
        times = [frame.captured_at for frame in source.frames()]
    assert 0.19 < times[-1] - times[0] < 0.6


def test_a_live_stream_over_http_in_pieces(tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="makes the stream")
    if "libx264" not in av.codecs_available:
        pytest.skip("PyAV without H.264")
    with av.open(str(tmp_path / "a.m3u8"), "w", format="hls", options={"hls_time": "1", "hls_list_size": "0"}) as out:
        stream = out.add_stream("libx264", rate=20)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(30):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="bgr24")))
        out.mux(stream.encode())
    with web_server(tmp_path) as address, open_source(f"{address}/a.m3u8") as source:
        assert len(list(source.frames())) == 30
