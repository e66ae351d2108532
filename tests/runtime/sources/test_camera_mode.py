"""Which mode of a camera is asked for."""

from typing import Any

import pytest

from ssd_edge.runtime.host.v4l2 import Mode
from ssd_edge.runtime.sources.base import SourceOptions
from ssd_edge.runtime.sources.camera_mode import CameraMode, choose_mode

WEBCAM = (  # as USB 2 has it: large raw pictures are slow
    Mode("YUYV", 640, 480, (15.0, 30.0)),
    Mode("YUYV", 1280, 720, (5.0, 10.0)),
    Mode("MJPG", 640, 480, (15.0, 30.0)),
    Mode("MJPG", 1280, 720, (15.0, 30.0)),
    Mode("MJPG", 1920, 1080, (15.0, 30.0)),
    Mode("H264", 1920, 1080, (60.0,)),  # which neither OpenCV nor the pipeline reads
)
VIRTUAL = (Mode("NV12", 3840, 2160, (1.0, 60.0), smallest=(32, 16)),)
INFRARED = (Mode("GREY", 640, 360, (30.0,)),)


@pytest.mark.parametrize(
    ("modes", "options", "chosen"),
    [
        (WEBCAM, {}, CameraMode("YUYV", 640, 480, 30.0)),
        (WEBCAM, {"size_wh": (1280, 720)}, CameraMode("MJPG", 1280, 720, 30.0)),
        (WEBCAM, {"size_wh": (1280, 720), "fps": 10.0}, CameraMode("YUYV", 1280, 720, 10.0)),
        (WEBCAM, {"size_wh": (1280, 720), "fps": 20.0}, CameraMode("MJPG", 1280, 720, 30.0)),
        (WEBCAM, {"size_wh": (1280, 720), "fps": 60.0}, CameraMode("MJPG", 1280, 720, 30.0)),
        (WEBCAM, {"size_wh": (1280, 720), "pixel_format": "YUYV"}, CameraMode("YUYV", 1280, 720, 10.0)),
        (WEBCAM, {"pixel_format": "MJPG"}, CameraMode("MJPG", 640, 480, 30.0)),
        (WEBCAM, {"pixel_format": "NV12"}, CameraMode("YUYV", 640, 480, 30.0)),
        (WEBCAM, {"size_wh": (1900, 1000)}, CameraMode("MJPG", 1920, 1080, 30.0)),
        (WEBCAM, {"size_wh": (160, 120)}, CameraMode("YUYV", 640, 480, 30.0)),
        (VIRTUAL, {}, CameraMode("NV12", 640, 480, 60.0)),
        (VIRTUAL, {"size_wh": (8000, 10)}, CameraMode("NV12", 3840, 16, 60.0)),
        (INFRARED, {}, CameraMode("GREY", 640, 360, 30.0)),
        ((*INFRARED, Mode("YUYV", 320, 240)), {}, CameraMode("YUYV", 320, 240, None)),
        ((Mode("RG10", 3280, 2464, (21.0,)),), {}, None),
        ((), {}, None),
    ],
)
def test_the_mode(modes: tuple[Mode, ...], options: dict[str, Any], chosen: CameraMode | None) -> None:
    assert choose_mode(modes, SourceOptions(**options)) == chosen


def test_a_mode_in_words() -> None:
    assert str(CameraMode("MJPG", 1280, 720, 30.0)) == "MJPG 1280×720 at 30 FPS"
    assert str(CameraMode("YUYV", 640, 480)) == "YUYV 640×480"
