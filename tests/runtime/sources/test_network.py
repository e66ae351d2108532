"""Addresses: servers that are silent, closed or lost, videos on a web server, FFmpeg's options."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ssd_edge.errors import SourceError
from ssd_edge.runtime.sources.base import SourceOptions
from ssd_edge.runtime.sources.find import open_source
from tests.runtime.sources.sample_video import write_video
from tests.runtime.sources.servers import silent_port, web_server


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
    problem = "no frame within 1 s" if falls_silent else "stopped after 20 frames"
    indexes: list[int] = []
    with source, pytest.raises(SourceError, match=rf"http://\*\*\*@127.*{problem}"):
        indexes.extend(frame.index for frame in source.frames())
    assert indexes == list(range(20))


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


def test_importing_leaves_the_environment_alone() -> None:
    code = (
        "import os, cv2, ssd_edge; before = dict(os.environ); import ssd_edge.runtime.stream.run; "
        "print(dict(os.environ) == before)"
    )
    without = {name: text for name, text in os.environ.items() if not name.startswith("OPENCV_")}
    result = subprocess.run([sys.executable, "-c", code], env=without, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (0, "True\n"), result.stderr


def test_ffmpeg_is_silent() -> None:
    with silent_port() as port:
        pass
    code = (
        "from ssd_edge.errors import SourceError; from ssd_edge.runtime.sources.find import open_source\n"
        f"try: open_source('rtsp://127.0.0.1:{port}/live')\n"
        "except SourceError: print('refused')"
    )
    without = {name: text for name, text in os.environ.items() if not name.startswith("OPENCV_")}
    result = subprocess.run([sys.executable, "-c", code], env=without, capture_output=True, text=True, timeout=60)
    assert (result.stdout, result.stderr) == ("refused\n", "")
