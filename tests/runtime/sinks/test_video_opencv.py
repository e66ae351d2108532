"""Video that OpenCV writes holds every frame, or says what is lost."""

import logging
from contextlib import closing
from pathlib import Path
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from ssd_edge.errors import SinkError
from ssd_edge.runtime.sinks.video_opencv import VideoSink
from tests.fakes.any_source import AnySource
from tests.runtime.sinks.frames import feed, frame, result


def read_video(path: Path) -> tuple[float, list[NDArray[np.uint8]]]:
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
