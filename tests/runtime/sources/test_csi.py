"""A Jetson's camera: through OpenCV, and real GStreamer with a test picture in the camera's place."""

import sys
import time
from collections import deque
from types import ModuleType
from typing import Any
from unittest.mock import Mock

import cv2
import pytest

from ssd_edge.errors import SourceError
from ssd_edge.runtime.sources import csi
from ssd_edge.runtime.sources.base import Frame, SourceOptions
from ssd_edge.runtime.sources.find import find_source

RED = "videotestsrc is-live=true num-buffers=5 pattern=red ! video/x-raw, format=NV12, width=322, height=24"


@pytest.fixture(autouse=True)
def opencv_has_no_gstreamer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cv2.videoio_registry.hasBackend", lambda _: False)


@pytest.mark.parametrize("lacks", ["PyGObject", "GStreamer"])
def test_without_gstreamer_the_fix_is_named(lacks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gi: Any = ModuleType("gi")
    gi.require_version = Mock(side_effect=ValueError("Namespace Gst not available"))
    monkeypatch.setitem(sys.modules, "gi", gi if lacks == "GStreamer" else None)
    with pytest.raises(SourceError, match=r"csi 0: .* no PyGObject .*apt install python3-gi.* --system-site-packages"):
        find_source("csi:0")


def test_through_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Mock()
    monkeypatch.setitem(sys.modules, "gi", None)
    monkeypatch.setattr("cv2.videoio_registry.hasBackend", lambda _: True)
    monkeypatch.setattr("cv2.VideoCapture", opened)
    opened().get.return_value = 30.0
    place = find_source("csi:1", SourceOptions(size_wh=(1920, 1080), fps=29.97))
    assert (place.name, place.remote, place.camera) == ("csi 1", True, True)
    assert place.open().live
    pipeline, backend = opened.call_args.args
    assert backend == cv2.CAP_GSTREAMER
    assert pipeline.startswith(
        "nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM), width=1920, height=1080, framerate=29970/1000 ! "
    )
    assert pipeline.endswith("format=BGR ! appsink drop=true max-buffers=1 sync=false")


@pytest.mark.usefixtures("gstreamer")
def test_through_pygobject(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = Mock(return_value=RED)
    monkeypatch.setattr(csi, "csi_pipeline", pipeline)
    with find_source("csi:0", SourceOptions(fps=60.0)).open() as source:
        assert (source.name, source.live, source.fps, source.decoder) == ("csi 0", True, 30.0, "GStreamer")
        seen: list[Frame] = []
        with pytest.raises(SourceError, match=r"csi 0: stopped after \d frames; check the ribbon cable"):
            deque(map(seen.append, source.frames()), maxlen=0)
    pipeline.assert_called_once_with(0, (1280, 720), 60.0)
    assert [frame.index for frame in seen] == list(range(len(seen)))
    assert {frame.image_bgr.shape for frame in seen} == {(24, 322, 3)}
    assert {tuple(pixel) for frame in seen for pixel in frame.image_bgr.reshape(-1, 3)} == {(0, 0, 254)}
    assert seen[0].captured_at <= seen[-1].captured_at <= time.monotonic()


@pytest.mark.usefixtures("gstreamer")
def test_a_machine_without_such_cameras() -> None:
    with pytest.raises(SourceError, match=r'csi 0: GStreamer says: no element "nvarguscamerasrc"; check the ribbon'):
        find_source("csi:0").open()
