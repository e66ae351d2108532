"""Cameras by number and by name, and what is asked of them."""

from pathlib import Path
from unittest.mock import Mock

import cv2
import pytest

from ssd_edge.errors import SourceError
from ssd_edge.runtime.sources.base import SourceOptions
from ssd_edge.runtime.sources.camera import camera_index
from ssd_edge.runtime.sources.find import open_source


@pytest.mark.parametrize("uri", [63, "63", "/dev/video63"])
def test_no_camera_says_which_exist(uri: int | str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glob.glob", lambda pattern: ["/dev/video1", "/dev/video0"])
    with pytest.raises(SourceError, match=r"no camera 63 .*there are /dev/video0, /dev/video1"):
        open_source(uri)


def test_a_camera_by_name(tmp_path: Path) -> None:
    for index, name in ((0, "Integrated IR"), (2, "HD Webcam C270"), (3, "HD Webcam C270"), (10, "Other")):
        (tmp_path / f"video{index}").mkdir()
        (tmp_path / f"video{index}" / "name").write_text(name + "\n")
    assert camera_index("c270", tmp_path) == 2
    with pytest.raises(SourceError, match=r"no camera is called 'C920'; there are: 0 \(Integrated IR\), 2 .*10"):
        camera_index("C920", tmp_path)


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
