"""What GStreamer is asked for. `test_gstreamer_streams.py` and `test_camera.py` run such pipelines."""

from pathlib import Path

import pytest

from ssd_edge.runtime.sources.base import SourceOptions
from ssd_edge.runtime.sources.camera_mode import CameraMode
from ssd_edge.runtime.sources.gstreamer import GStreamer
from ssd_edge.runtime.sources.pipelines import (
    camera_pipeline,
    csi_pipeline,
    file_pipeline,
    quoted,
    rtsp_pipeline,
    srt_pipeline,
)

DECODE = 'decodebin caps="video/x-raw(ANY)" expose-all-streams=false'
TO_NV12 = "nvvidconv ! video/x-raw, format=NV12"
V4L2 = "v4l2src device=/dev/video0"


def test_on_a_jetson() -> None:
    assert csi_pipeline(1, (1920, 1080), 29.97) == (
        "nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM), width=1920, height=1080, framerate=29970/1000 ! "
        f"{TO_NV12}"
    )
    assert file_pipeline(Path("/a b/c!.mp4"), nvidia=True) == f"file:///a%20b/c%21.mp4 ! {DECODE} ! {TO_NV12}"
    assert rtsp_pipeline("rtsp://me:pw@door/1", SourceOptions(transport="udp"), nvidia=True) == (
        'rtspsrc name=rtsp location="rtsp://me:pw@door/1" protocols=udp latency=200 tls-validation-flags=0 ! '
        f"application/x-rtp, media=video ! {DECODE} ! {TO_NV12}"
    )
    assert srt_pipeline("srt://door:9000", nvidia=True) == f'srtsrc uri="srt://door:9000" ! {DECODE} ! {TO_NV12}'
    mjpg = CameraMode("MJPG", 1280, 720, 30.0)
    assert camera_pipeline(V4L2, mjpg, nvidia=True, nvidia_jpeg=True) == (
        f"{V4L2} ! image/jpeg, width=1280, height=720, framerate=[29700/1000, 30300/1000] ! "
        f"identity name=jpegs silent=true ! jpegparse ! nvv4l2decoder mjpeg=1 ! {TO_NV12}"
    )
    assert camera_pipeline(V4L2, CameraMode("YUYV", 640, 480), nvidia=True) == (
        f"{V4L2} ! video/x-raw, format=YUY2, width=640, height=480 ! {TO_NV12}"
    )


def test_without_nvidias_elements() -> None:
    assert "jpegdec ! videoconvert ! " in camera_pipeline(V4L2, CameraMode("MJPG", 1280, 720, 30.0), nvidia=False)
    assert file_pipeline(Path("/a.mp4"), nvidia=False).endswith(
        " ! videoconvert ! video/x-raw, format=(string){NV12, I420, Y42B, Y444}"
    )


def test_what_nvidias_converter_does_not_take_goes_another_way() -> None:
    on_thor = camera_pipeline(V4L2, CameraMode("MJPG", 1280, 720), nvidia=True, nvidia_jpeg=False)
    assert "jpegdec ! videoconvert ! " in on_thor
    assert " ! videoconvert ! " in camera_pipeline(V4L2, CameraMode("BGR3", 640, 480), nvidia=True)


@pytest.mark.parametrize(
    "text", ["a b", 'say "yes"', "it's", "back\\slash\\", "a ! fakesink", 'x" ! filesink location="y', "ä=1,b;c"]
)
def test_a_quoted_text_is_one_value(text: str, gstreamer: GStreamer) -> None:
    element = gstreamer.gst.parse_launch(f"filesrc name=a location={quoted(text)} ! fakesink").get_by_name("a")
    assert element.get_property("location") == text
