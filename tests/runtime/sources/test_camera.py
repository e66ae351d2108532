"""Cameras by number, name and serial number; what is asked of them; unplugged ones. OpenCV's are doubles."""

import logging
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from ssd_edge.errors import SourceError
from ssd_edge.runtime.colours import BT601_FULL
from ssd_edge.runtime.host.v4l2 import Camera, Mode
from ssd_edge.runtime.host.video_devices import VideoDevice
from ssd_edge.runtime.pixels import YuvPlanes
from ssd_edge.runtime.sources import camera as module
from ssd_edge.runtime.sources.base import Frame, Place, Source, SourceOptions
from ssd_edge.runtime.sources.camera import find_camera
from ssd_edge.runtime.sources.camera_mode import CameraMode
from ssd_edge.runtime.sources.gstreamer import GStreamerSource
from ssd_edge.runtime.sources.pipelines import camera_pipeline
from tests.fakes.sysfs import plug_in, unplug
from tests.runtime.sources.sample_video import ramp

C270 = VideoDevice(2, "HD Webcam C270", "A1B2", "1-1.2:1.0", "0")
MODES = (Mode("YUYV", 1280, 720, (10.0,)), Mode("MJPG", 1280, 720, (30.0,)), Mode("YUYV", 640, 480, (30.0,)))
JPEG = cv2.imencode(".jpg", ramp())[1].tobytes()


class FakeCapture:
    """`cv2.VideoCapture` of a camera that takes what it is asked for, as V4L2's does, or insists on its own."""

    opened: list[int] = []  # noqa: RUF012

    def __init__(self, frames: list[NDArray[np.uint8]], **insists: float) -> None:
        self.values: dict[int, float] = {cv2.CAP_PROP_FPS: 30.0} | {
            getattr(cv2, name): value for name, value in insists.items()
        }
        self.asked: dict[int, float] = {}
        self._insists = set(self.values) if insists else set()
        self._frames = iter(frames)

    def isOpened(self) -> bool:
        return True

    def set(self, what: int, value: float) -> bool:
        self.asked[what] = value
        if what not in self._insists:
            self.values[what] = value
        return True

    def get(self, what: int) -> float:
        return self.values.get(what, 0.0)

    def grab(self) -> bool:
        self._frame = next(self._frames, None)
        return self._frame is not None

    def retrieve(self) -> tuple[bool, Any]:
        return True, self._frame

    def release(self) -> None:
        pass


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeCapture]:
    """A camera with these modes and frames, and what `cv2.VideoCapture` gives for it."""
    plug_in(tmp_path, C270)
    FakeCapture.opened = []

    def make(*frames: NDArray[np.uint8], modes: tuple[Mode, ...] = MODES, **insists: float) -> FakeCapture:
        capture = FakeCapture(list(frames), **insists)

        def open_capture(number: int, _: int) -> FakeCapture:
            FakeCapture.opened.append(number)
            return capture

        monkeypatch.setattr("cv2.VideoCapture", open_capture)
        monkeypatch.setattr(module, "read_camera", lambda _: Camera("HD Webcam C270", "uvcvideo", modes))
        return capture

    return make


def raw(jpeg: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(jpeg, np.uint8)[None]


def read(source: Source) -> list[Frame]:
    frames: list[Frame] = []
    with source, pytest.raises(SourceError, match="stopped after"):
        deque(map(frames.append, source.frames()), maxlen=0)
    return frames


@pytest.mark.parametrize("which", ["2", "c270", "a1b2"])
def test_by_number_name_or_serial_number(
    which: str, machine: Callable[..., FakeCapture], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    capture = machine()
    options = SourceOptions(size_wh=(1280, 720))
    place = find_camera(which, options, tmp_path)
    assert (place.name, place.remote, place.camera) == (f"camera {which}", True, True)
    place.open()
    assert FakeCapture.opened == [2]
    assert list(capture.asked) == [
        *(cv2.CAP_PROP_FOURCC, cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FPS),
        cv2.CAP_PROP_CONVERT_RGB,
    ]
    assert list(capture.asked.values()) == [cv2.VideoWriter.fourcc(*"MJPG"), 1280, 720, 30, 0]
    assert [record.message for record in caplog.records] == [
        f"camera {which} (HD Webcam C270): MJPG 1280×720 at 30 FPS"
    ]


def test_no_such_camera_says_which_are_there(machine: Callable[..., FakeCapture], tmp_path: Path) -> None:
    machine()
    with pytest.raises(SourceError, match=r"no camera has 'C920' as its name or serial number; .*: 2 \(HD Webcam C2"):
        find_camera("C920", SourceOptions(), tmp_path).open()


def test_a_camera_that_cannot_be_opened(tmp_path: Path) -> None:
    plug_in(tmp_path, C270)
    with pytest.raises(SourceError, match=r"no camera 63 that can be opened; found: /dev/video2; is it plugged in"):
        find_camera("63", SourceOptions(), tmp_path).open()


def test_what_the_camera_does_not_give_is_said(
    machine: Callable[..., FakeCapture], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine(CAP_PROP_FRAME_WIDTH=640, CAP_PROP_FRAME_HEIGHT=480, CAP_PROP_FPS=15)
    find_camera("2", SourceOptions(size_wh=(1280, 720), fps=60.0, pixel_format="NV12"), tmp_path).open()
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [
        "camera 2 has no NV12, but YUYV, MJPG",
        "camera 2 gives 640×480 pixels, not the 1280×720 asked for",
        "camera 2 gives 15 FPS, not the 60 asked for",
    ]


def test_a_camera_that_does_not_say_what_it_can_is_asked_all_the_same(
    machine: Callable[..., FakeCapture], tmp_path: Path
) -> None:
    capture = machine(modes=())
    find_camera("2", SourceOptions(size_wh=(320, 240), fps=5.0, pixel_format="YUYV"), tmp_path).open()
    assert list(capture.asked.values()) == [cv2.VideoWriter.fourcc(*"YUYV"), 320, 240, 5.0]


def test_unplugged_and_plugged_in_again(machine: Callable[..., FakeCapture], tmp_path: Path) -> None:
    machine()
    place = find_camera("2", SourceOptions(), tmp_path)
    place.open()
    unplug(tmp_path, C270)
    other = VideoDevice(2, "Another", "", "1-7:1.0", "0")
    plug_in(tmp_path, other)
    with pytest.raises(SourceError, match=r"camera 2 \(HD Webcam C270\) is not there; found: 2 \(Another\)"):
        place.open()
    plug_in(tmp_path, VideoDevice(4, C270.name, C270.serial, "2-1:1.0", "0"))
    place.open()
    assert FakeCapture.opened == [2, 4]
    find_camera("2", SourceOptions(), tmp_path).open()
    assert FakeCapture.opened == [2, 4, 2]


@pytest.mark.parametrize("damaged", ["skip", "keep"])
def test_jpegs_that_are_cut_off_are_found(damaged: str, machine: Callable[..., FakeCapture], tmp_path: Path) -> None:
    half = JPEG[: len(JPEG) // 2]
    frames = [JPEG, half, JPEG + bytes(100), half + b"\xff\xd9", b"\0" * 100, JPEG]
    machine(*map(raw, frames))
    options = SourceOptions(size_wh=(1280, 720), damaged=damaged)
    source = find_camera("2", options, tmp_path).open()
    found = read(source)
    assert source.decoder == "mjpeg (FFmpeg)"
    assert source.corrupt == 3
    assert [frame.index for frame in found if not frame.damaged] == [0, 2, 5]
    assert [frame.index for frame in found if frame.damaged] == ([1, 3] if damaged == "keep" else [])
    assert all(isinstance(frame.pixels, YuvPlanes) for frame in found)
    assert np.abs(found[0].image_bgr.astype(int) - ramp()).mean() < 4


def test_frames_that_opencv_decodes_all_the_same(machine: Callable[..., FakeCapture], tmp_path: Path) -> None:
    machine(ramp(), np.zeros((0, 0, 3), np.uint8), ramp())
    source = find_camera("2", SourceOptions(size_wh=(1280, 720)), tmp_path).open()
    assert [frame.index for frame in read(source)] == [0, 2]
    assert source.corrupt == 1


@pytest.mark.usefixtures("gstreamer")
class TestGStreamer:
    """A test picture in the place of `v4l2src`."""

    STAND_IN = "videotestsrc is-live=true ! video/x-raw, format={} ! {} identity"

    def open(self, mode: CameraMode, source: str, **options: Any) -> GStreamerSource:
        pipeline = camera_pipeline(source, mode, nvidia=False)
        return GStreamerSource("camera 0", pipeline, SourceOptions(**options), live=True, advice="check it")

    def test_mjpg(self) -> None:
        stand_in = self.STAND_IN.format("I420, framerate=30000/1001", "jpegenc !")
        with self.open(CameraMode("MJPG", 322, 240, 29.97), stand_in) as source:
            frame = next(source.frames())
            assert source.decoder == "jpegdec (GStreamer)"
            assert source.fps == pytest.approx(29.97, abs=0.001)
        assert frame.size_hw == (240, 322)
        assert isinstance(frame.pixels, YuvPlanes)
        assert frame.pixels.chroma[0].shape == (120, 161)
        assert frame.pixels.colours == BT601_FULL

    @pytest.mark.parametrize("names", ["YUYV YUY2", "NV12 NV12", "GREY GRAY8", "BGR3 BGR"])
    def test_raw(self, names: str) -> None:
        fourcc, form = names.split()
        with self.open(CameraMode(fourcc, 322, 240, 25.0), self.STAND_IN.format(form, "")) as source:
            frame = next(source.frames())
        assert frame.size_hw == (240, 322)
        assert isinstance(frame.pixels, YuvPlanes)
        assert frame.image_bgr[0, 0].tolist() == pytest.approx([191] * 3, abs=64)  # the first bar is white, of 75 %

    def test_jpegs_that_are_cut_off_never_reach_the_decoder(self, tmp_path: Path) -> None:
        for number in range(8):
            data = JPEG if number % 4 != 2 else JPEG[: len(JPEG) // 2]
            (tmp_path / f"{number}.jpg").write_bytes(data)
        pictures = f"multifilesrc location={tmp_path}/%d.jpg caps=image/jpeg,width=64,height=48,framerate=30/1"
        mode = CameraMode("MJPG", 64, 48, 30.0)
        pipeline = camera_pipeline(f"{pictures} ! identity sync=true", mode, nvidia=False)
        source = GStreamerSource("camera 0", pipeline, SourceOptions(), live=False, advice="check it")
        with source:
            assert len(list(source.frames())) == 6
        assert source.corrupt == 2

    def test_asked_for(
        self, machine: Callable[..., FakeCapture], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        machine()
        asked = []

        def stand_in(source: str, mode: CameraMode, **has: bool) -> str:
            asked.append((source, mode, has))
            return "videotestsrc is-live=true ! video/x-raw, format=NV12"

        monkeypatch.setattr(module, "camera_pipeline", stand_in)
        place: Place = find_camera("2", SourceOptions(hwaccel="gstreamer", size_wh=(1280, 720)), tmp_path)
        with place.open() as source:
            assert source.live
        device = f'v4l2src device="{tmp_path}/dev/video2"'
        assert asked == [(device, CameraMode("MJPG", 1280, 720, 30.0), {"nvidia": False, "nvidia_jpeg": False})]
        assert FakeCapture.opened == []


@pytest.mark.parametrize(
    ("board", "jpeg"), [("NVIDIA Jetson Orin Nano", True), ("NVIDIA Jetson AGX Thor Developer Kit", False)]
)
@pytest.mark.parametrize("size_wh", [(1280, 720), (640, 480)])
def test_on_a_jetson_its_decoder_is_used_where_it_has_one(
    board: str,
    jpeg: bool,
    size_wh: tuple[int, int],
    machine: Callable[..., FakeCapture],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine()
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/model").write_text(board)
    monkeypatch.setattr(module, "has_element", lambda _: True)
    monkeypatch.setattr(module, "gstreamer_decodes", lambda options: options.hwaccel == "auto")
    opened: list[str] = []
    monkeypatch.setattr(module, "GStreamerSource", lambda name, pipeline, *_, **__: opened.append(pipeline))
    find_camera("2", SourceOptions(size_wh=size_wh), tmp_path).open()
    if size_wh == (640, 480):  # raw
        assert "format=YUY2, width=640, height=480" in opened[0]
    elif jpeg:
        assert "jpegparse ! nvv4l2decoder mjpeg=1 ! nvvidconv ! " in opened[0]
    else:
        assert (opened, FakeCapture.opened) == ([], [2])


@pytest.mark.skipif(sys.platform != "linux", reason="V4L2 is Linux's")
def test_a_file_that_is_no_camera_has_no_modes(tmp_path: Path) -> None:
    plug_in(tmp_path, C270)
    with pytest.raises(SourceError, match="no camera 2 that can be opened"):
        find_camera("2", SourceOptions(), tmp_path).open()
