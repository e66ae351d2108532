"""Files and addresses through real GStreamer: the same frames as through FFmpeg, and what servers do."""

import logging
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from ssd_edge.errors import SourceError
from ssd_edge.runtime.pixels import YuvPlanes
from ssd_edge.runtime.sources import video
from ssd_edge.runtime.sources.base import SourceOptions
from ssd_edge.runtime.sources.find import find_source, open_source
from ssd_edge.runtime.sources.gstreamer import GStreamer
from tests.runtime.sources.sample_video import encode, ramp

pytestmark = pytest.mark.usefixtures("gstreamer")
THROUGH_GSTREAMER = SourceOptions(hwaccel="gstreamer", timeout_s=8.0)
BT709 = 1  # AVColorSpace
PICTURES = [ramp((50, 322), shift=2 * number) for number in range(20)]
UNEVEN_MS = [40 * number + (7 if number % 3 else 0) for number in range(len(PICTURES))]


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"bf": "2"}),
        ("a.mkv", "libx264", {}),
        ("a.ts", "libx264", {}),
        ("a.mp4", "libx265", {"x265-params": "log-level=none"}),
        ("a.avi", "mpeg4", {"qscale": "3"}),
    ],
)
def test_files_give_the_frames_that_ffmpeg_gives(
    name: str, codec: str, options: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / name
    times_ms = None if name.endswith(".avi") else UNEVEN_MS
    encode(path, PICTURES, codec=codec, options=options, times_ms=times_ms, colour_space=BT709, rate=25)
    with open_source(path, SourceOptions(hwaccel="none")) as source:
        expected = list(source.frames())
    with open_source(path, THROUGH_GSTREAMER) as source:
        assert source.decoder.endswith(" (GStreamer)")
        assert (source.live, source.paths) == (False, (path,))
        found = list(source.frames())
    assert len(found) == len(expected) == len(PICTURES)
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one.pixels, YuvPlanes)
        assert isinstance(other.pixels, YuvPlanes)
        assert one.pixels.colours == other.pixels.colours
        assert one.media_time_s == pytest.approx(other.media_time_s, abs=0.0011)
        for mine, its in zip(
            (one.pixels.luma, *one.pixels.chroma), (other.pixels.luma, *other.pixels.chroma), strict=True
        ):
            assert np.abs(mine.astype(int) - its).max() <= 1


@pytest.mark.parametrize(
    "name", ["with space.mp4", 'it\'s "quoted" ! queue.mp4', "a%20b#c?d.mp4", "\udcff.mp4", "ä,(1);.mp4"]
)
def test_names_of_files(name: str, tmp_path: Path) -> None:
    encode(tmp_path / "a.mp4", PICTURES[:5])
    try:
        os.rename(tmp_path / "a.mp4", tmp_path / name)
    except OSError:
        pytest.skip("this file system refuses such names")
    with open_source(tmp_path / name, THROUGH_GSTREAMER) as source:
        assert len(list(source.frames())) == 5


def test_a_file_with_sound_is_read_without_it(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as out:
        sound, picture = out.add_stream("aac", rate=48000), out.add_stream("libx264", rate=25)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        for number in range(200):
            block = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            block.sample_rate, block.pts = 48000, 1024 * number
            out.mux(sound.encode(block))
        for number in range(25):
            out.mux(picture.encode(av.VideoFrame.from_ndarray(ramp(shift=number), format="bgr24")))
        out.mux(picture.encode())
    with open_source(path, THROUGH_GSTREAMER) as source:
        assert len(list(source.frames())) == 25


def test_a_picture_is_turned_as_its_file_says(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", PICTURES[:3])
    data = bytearray(Path(str(path)).read_bytes())
    header = data.index(b"tkhd") + 4 + 40  # version 0: the matrix comes after 40 bytes, ISO/IEC 14496-12
    one, zero, w = (number.to_bytes(4, "big", signed=True) for number in (1 << 16, 0, 1 << 30))
    minus = (-(1 << 16)).to_bytes(4, "big", signed=True)
    data[header : header + 36] = zero + one + zero + minus + zero + zero + zero + zero + w  # a quarter, clockwise
    (tmp_path / "a.mp4").write_bytes(data)
    images = []
    for hwaccel in ("none", "gstreamer"):
        with open_source(tmp_path / "a.mp4", SourceOptions(hwaccel=hwaccel)) as source:
            images.append(next(source.frames()).image_bgr)
    assert images[0].shape == images[1].shape == (322, 50, 3)
    assert np.abs(images[0].astype(int) - images[1]).max() <= 3


def test_a_file_that_is_cut_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.mkv"
    encode(path, [np.roll(PICTURES[0], number, 0) for number in range(100)], rate=25)
    whole = path.read_bytes()
    with open_source(path, THROUGH_GSTREAMER) as source:
        assert len(list(source.frames())) == 100
    assert "cut off" not in caplog.text
    path.write_bytes(whole[: len(whole) // 2])
    with open_source(path, THROUGH_GSTREAMER) as source:
        assert len(list(source.frames())) < 60
    assert "a.mkv seems to be cut off or damaged: its last frame is at " in caplog.text


def test_where_gstreamer_fails_ffmpeg_reads_unless_gstreamer_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "a.mp4"
    encode(path, PICTURES[:5])
    monkeypatch.setattr(video, "gstreamer_decodes", lambda options: True)
    monkeypatch.setattr(video, "file_pipeline", lambda *_, **__: "no_such_element")
    with open_source(path, SourceOptions(hwaccel="auto")) as source:
        assert source.decoder == "h264 (FFmpeg)"
    assert 'no element "no_such_element"' in caplog.text
    with pytest.raises(SourceError, match='no element "no_such_element"'):
        open_source(path, THROUGH_GSTREAMER)


@contextmanager
def rtsp_answers(*answers: str) -> Iterator[tuple[int, list[str]]]:
    """A server that gives these answers on every connection, and hangs up then; its port, and the requests."""
    requests: list[str] = []

    def answer(connection: socket.socket) -> None:
        with closing(connection):
            for words in answers:
                request = connection.recv(4096).decode()
                if not request:
                    return
                requests.append(request)
                number = next(line for line in request.splitlines() if line.lower().startswith("cseq"))
                connection.sendall(f"RTSP/1.0 {words}\r\n{number}\r\n\r\n".encode())

    def serve(server: socket.socket) -> None:
        with suppress(OSError):  # until it is closed
            while True:  # whoever has asked keeps the connection while the stream is opened
                threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, args=(server,), daemon=True).start()
        yield server.getsockname()[1], requests


@pytest.mark.parametrize("allowed", [False, True])
def test_a_redirect_to_another_host(allowed: bool) -> None:
    with rtsp_answers("404 Not Found") as (other, asked):
        moved = f"302 Moved Temporarily\r\nLocation: rtsp://localhost:{other}/b"
        with rtsp_answers("200 OK\r\nPublic: OPTIONS, DESCRIBE, SETUP, PLAY", moved) as (port, _):
            place = find_source(
                f"rtsp://me:s3cret@127.0.0.1:{port}/a",
                SourceOptions(hwaccel="gstreamer", timeout_s=4.0, allow_redirects=allowed),
            )
            message = (
                "GStreamer says: Not found" if allowed else "it sends to another host, localhost; .*--allow-redirects"
            )
            with pytest.raises(SourceError, match=message) as caught:
                place.open()
    assert bool(asked) == allowed
    assert "s3cret" not in str(caught.value) + str(asked)


@contextmanager
def srt_sender(gst: Any) -> Iterator[int]:
    with socket.socket(type=socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    sender = gst.parse_launch(
        "videotestsrc is-live=true pattern=ball ! video/x-raw, width=322, height=240, framerate=30/1 ! "
        "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=15 ! mpegtsmux ! "
        f'srtsink uri="srt://127.0.0.1:{port}?mode=listener" wait-for-connection=false'
    )
    sender.set_state(gst.State.PLAYING)
    try:
        yield port
    finally:
        sender.set_state(gst.State.NULL)


@pytest.mark.parametrize("hwaccel", ["auto", "gstreamer"])
def test_srt(hwaccel: str, gstreamer: GStreamer) -> None:
    with srt_sender(gstreamer.gst) as port:
        place = find_source(f"srt://127.0.0.1:{port}", SourceOptions(hwaccel=hwaccel))
        with place.open() as source:
            assert (source.live, source.decoder) == (True, "avdec_h264 (GStreamer)")
            frames = source.frames()
            assert [next(frames).size_hw for _ in range(10)] == [(240, 322)] * 10


def test_srt_without_gstreamer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gi", None)
    with pytest.raises(SourceError, match=r"srt://door:9000: there is no PyGObject .*; sudo apt install python3-gi"):
        find_source("srt://door:9000", SourceOptions()).open()


def test_other_addresses_are_ffmpegs(caplog: pytest.LogCaptureFixture) -> None:
    find_source("http://door/x.m3u8", THROUGH_GSTREAMER)
    assert "http://door/x.m3u8: FFmpeg reads it; --hwaccel gstreamer is for files, cameras, RTSP and SRT" in caplog.text
