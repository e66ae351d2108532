"""Video files: whole, cut off, damaged."""

import logging
from pathlib import Path
from unittest.mock import Mock

import cv2
import numpy as np
import pytest

from ssd_edge.errors import SourceError
from ssd_edge.runtime.sources.capture import CaptureSource
from ssd_edge.runtime.sources.find import open_source
from tests.runtime.sources.sample_video import write_video


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
        count = len(list(source.frames())) + source.corrupt  # half of the last one is there
    assert 5 < count < 25
    assert f"{count} of the 30 frames" in caplog.text


def test_an_mp4_without_its_index_is_refused(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "a.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match=r"cut\.mp4 is no video"):
        open_source(tmp_path / "cut.mp4")


def test_a_live_source_that_ends_is_an_error(tmp_path: Path) -> None:
    capture = cv2.VideoCapture(str(write_video(tmp_path / "a.mp4", frames=3)))
    with CaptureSource("camera 0", capture) as source:
        frames = source.frames()
        assert [next(frames).index for _ in range(3)] == [0, 1, 2]
        with pytest.raises(SourceError, match="camera 0 stopped after 3 frames"):
            next(frames)


def test_damaged_frames_are_skipped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    good = iter([True, False, False, True])
    capture = Mock()
    capture.get.return_value = 0
    capture.grab.side_effect = [True] * 4 + [False]
    capture.retrieve.side_effect = lambda: (True, image) if next(good) else (False, None)
    source = CaptureSource("camera 0", capture)
    frames = source.frames()
    assert [next(frames).index for _ in range(2)] == [0, 3]
    assert source.corrupt == 2
    with pytest.raises(SourceError, match="stopped after 2 frames"):
        next(frames)


def test_nothing_but_damaged_frames_is_an_error() -> None:
    capture = Mock()
    capture.get.return_value = 0
    capture.retrieve.return_value = (False, None)
    with pytest.raises(SourceError, match="100 frames in a row are damaged"):
        list(CaptureSource("camera 0", capture).frames())
