"""A Jetson's camera: the pipeline, and real GStreamer through PyGObject with a test picture in the camera's place."""

import importlib.util
import sys
import threading
import time
from collections import deque
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import Mock

import cv2
import pytest

from ssd_edge.errors import SourceError
from ssd_edge.runtime.sources import csi
from ssd_edge.runtime.sources.base import Frame, SourceOptions
from ssd_edge.runtime.sources.csi import GStreamerSource, csi_pipeline
from ssd_edge.runtime.sources.find import find_source

DEBIANS = Path("/usr/lib/python3/dist-packages/gi")  # for Debian's Python, and any other of the same version
RED = "videotestsrc is-live=true num-buffers=5 pattern=red ! video/x-raw, format=BGRx, width=322, height=24"


@pytest.fixture(autouse=True)
def opencv_has_no_gstreamer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cv2.videoio_registry.hasBackend", lambda _: False)


@pytest.fixture(scope="module")
def gst(tmp_path_factory: pytest.TempPathFactory) -> None:
    """PyGObject, lent from the system where this environment does not have it."""
    if importlib.util.find_spec("gi") is None and DEBIANS.exists():
        folder = tmp_path_factory.mktemp("lent")
        (folder / "gi").symlink_to(DEBIANS)
        sys.path.append(str(folder))
    if csi.load_gst() is None:
        pytest.skip("no PyGObject of this Python's version; sudo apt install python3-gi gir1.2-gstreamer-1.0")


def play(pipeline: str, timeout_s: float = 5.0) -> GStreamerSource:
    return GStreamerSource("csi 0", pipeline, fps=30.0, timeout_s=timeout_s, advice="check it")


@pytest.mark.parametrize("lacks", ["PyGObject", "GStreamer"])
def test_without_gstreamer_the_fix_is_named(lacks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gi: Any = ModuleType("gi")
    gi.require_version = Mock(side_effect=ValueError("Namespace Gst not available"))
    monkeypatch.setitem(sys.modules, "gi", gi if lacks == "GStreamer" else None)
    with pytest.raises(SourceError, match=r"csi 0: .* no GStreamer.*apt install python3-gi.* --system-site-packages"):
        find_source("csi:0")


def test_through_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Mock()
    monkeypatch.setattr("cv2.videoio_registry.hasBackend", lambda _: True)
    monkeypatch.setattr("cv2.VideoCapture", opened)
    opened().get.return_value = 30.0
    place = find_source("csi:1", SourceOptions(size_wh=(1920, 1080), fps=29.97))
    assert (place.name, place.remote) == ("csi 1", True)
    assert place.open().live
    pipeline, backend = opened.call_args.args
    assert backend == cv2.CAP_GSTREAMER
    assert pipeline.startswith(
        "nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM), width=1920, height=1080, framerate=29970/1000 ! "
    )
    assert pipeline.endswith("format=BGR ! appsink drop=true max-buffers=1 sync=false")
    assert "width=1280, height=720, framerate=30000/1000" in csi_pipeline(0, SourceOptions())


@pytest.mark.usefixtures("gst")
def test_through_pygobject(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csi, "csi_pipeline", lambda number, options: RED)
    with find_source("csi:0", SourceOptions(fps=30.0)).open() as source:
        assert (source.name, source.live, source.fps) == ("csi 0", True, 30.0)
        seen: list[Frame] = []
        with pytest.raises(SourceError, match=r"csi 0: stopped after \d frames; check the ribbon cable"):
            deque(map(seen.append, source.frames()))
    assert [frame.index for frame in seen] == list(range(len(seen)))
    assert {frame.image_bgr.shape for frame in seen} == {(24, 322, 3)}
    assert {tuple(pixel) for frame in seen for pixel in frame.image_bgr.reshape(-1, 3)} == {(0, 0, 255)}
    assert seen[0].captured_at <= seen[-1].captured_at <= time.monotonic()


@pytest.mark.usefixtures("gst")
def test_rows_longer_than_the_picture() -> None:
    gst = csi.load_gst()
    rows = bytes(range(1, 9)) + bytes(8) + bytes(range(11, 19)) + bytes(8)  # two pixels in four
    caps = gst.Caps.from_string("video/x-raw, format=BGRx, width=2, height=2")
    sample = gst.Sample.new(gst.Buffer.new_wrapped(rows), caps, None, None)
    assert csi.bgr_of(sample).tolist() == [[[1, 2, 3], [5, 6, 7]], [[11, 12, 13], [15, 16, 17]]]


@pytest.mark.usefixtures("gst")
def test_only_the_newest_frame_waits() -> None:
    with play("videotestsrc is-live=true ! video/x-raw, format=BGRx, framerate=30/1") as source:
        frames = source.frames()
        next(frames)
        time.sleep(0.5)
        begin = time.monotonic()
        for _ in range(5):  # four of them are yet to come, of fifteen that were missed
            next(frames)
        assert time.monotonic() - begin > 3 / 30


@pytest.mark.usefixtures("gst")
def test_while_it_waits_for_a_frame_other_threads_work() -> None:
    ticks, end = [], threading.Event()

    def tick() -> None:
        while not end.wait(0.01):
            ticks.append(time.monotonic())

    thread = threading.Thread(target=tick)
    thread.start()
    silent = "appsrc format=time ! video/x-raw, format=BGRx, width=8, height=8, framerate=30/1"
    with play(silent, timeout_s=1.0) as source, pytest.raises(SourceError, match=r"csi 0: no frame within 1 s; check"):
        list(source.frames())
    end.set()
    thread.join()
    assert len(ticks) > 10


@pytest.mark.usefixtures("gst")
def test_what_gstreamer_says_is_told() -> None:
    with pytest.raises(SourceError, match=r'csi 0: GStreamer says: no element "nvarguscamerasrc"; check the ribbon'):
        find_source("csi:0").open()
    with (
        play("filesrc location=/no/such ! decodebin ! videoconvert ! video/x-raw, format=BGRx") as broken,
        pytest.raises(SourceError, match=r"csi 0: GStreamer says: Resource not found.; check it"),
    ):
        list(broken.frames())
