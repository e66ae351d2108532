"""Checks of the cameras: several, none, in use, without permission."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ssd_edge.runtime.doctor import cameras
from ssd_edge.runtime.doctor.finding import MISSING, NONE, OK, PROBLEM
from ssd_edge.runtime.host.v4l2 import Camera, Mode
from ssd_edge.runtime.host.video_devices import VideoDevice
from tests.fakes.sysfs import plug_in, unplug


@pytest.fixture
def video(machine: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Device files, each with its camera, or with the error of asking for it."""

    def make(**answers: Camera | OSError | None) -> Path:
        root = machine(
            *({f"dev/{name}": "", f"sys/class/video4linux/{name}/name": f"name of {name}\n"} for name in answers)
        )

        def read(device: int) -> Camera | None:
            found = answers[Path(os.readlink(f"/proc/self/fd/{device}")).name]
            if isinstance(found, OSError):
                raise found
            return found

        monkeypatch.setattr(cameras, "read_camera", read)
        return root

    return make


CAMERA = Camera("HD Webcam", "uvcvideo", (Mode("MJPG", 640, 480, (30.0,)), Mode("MJPG", 1920, 1080, (15.0, 30.0))))


def test_cameras_in_the_order_of_their_numbers(video: Callable[..., Path]) -> None:
    found = cameras.cameras(video(video10=CAMERA, video2=CAMERA, video3=None))
    assert found.status == OK
    assert [camera["device"] for camera in found.facts["cameras"]] == ["/dev/video2", "/dev/video10"]
    assert found.summary.startswith("/dev/video2 HD Webcam: MJPG 1920×1080 at 30 FPS; ")
    assert found.facts["cameras"][0]["modes"][0] == {
        "pixel_format": "MJPG",
        "width": 640,
        "height": 480,
        "fps": (30.0,),
        "smallest": None,
    }


def test_a_camera_without_permission_names_the_group(video: Callable[..., Path]) -> None:
    root = video(video0=OSError(errno.EACCES, ""))
    found = cameras.cameras(root)
    assert (found.status, found.summary) == (PROBLEM, "/dev/video0 name of video0: Permission denied")
    assert found.fix == "sudo usermod -aG video $USER, then log in again"
    (root / ".dockerenv").touch()
    fix = f"start the container with: docker run --device /dev/video0 --group-add {os.getgid()}"
    assert cameras.cameras(root).fix == fix


def test_a_camera_that_is_in_use_beside_one_that_is_not(video: Callable[..., Path]) -> None:
    busy = OSError(errno.EBUSY, "")
    assert cameras.cameras(video(video0=busy)).fix == "close what uses it, or plug it in again; sudo dmesg says more"
    found = cameras.cameras(video(video0=busy, video1=CAMERA))
    assert found.status == OK
    assert "Device or resource busy" in found.summary


@pytest.mark.parametrize("there", [True, False])
def test_a_csi_camera_needs_gstreamer(there: bool, video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssd_edge.runtime.sources.csi.has_gstreamer", lambda: there)
    csi = Camera("vi-output, imx219 9-0010", "tegra-video", (Mode("RG10", 3280, 2464, (21.0,)),))
    found = cameras.cameras(video(video0=csi))
    assert (found.status, "python3-gi" in str(found.fix)) == ((OK, False) if there else (PROBLEM, True))
    usb = cameras.cameras(video(video0=csi, video1=CAMERA))
    assert usb.status == OK


def test_no_cameras_here_or_not_in_this_container(machine: Callable[..., Path]) -> None:
    assert cameras.cameras(machine()).status == NONE
    root = machine({"sys/class/video4linux/video0/name": "HD Webcam", ".dockerenv": ""})
    found = cameras.cameras(root)
    assert (found.status, found.fix) == (MISSING, "start the container with: docker run --device /dev/video0")


def test_the_serial_number_by_which_a_camera_can_be_named(video: Callable[..., Path]) -> None:
    root = video(video0=CAMERA)
    assert cameras.cameras(root).facts["cameras"][0]["serial"] is None
    unplug(root, VideoDevice(0, "HD Webcam"))
    plug_in(root, VideoDevice(0, "HD Webcam", "A1B2", "1-1:1.0", "0"))
    assert cameras.cameras(root).facts["cameras"][0]["serial"] == "A1B2"
