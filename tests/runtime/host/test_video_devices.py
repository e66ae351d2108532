"""Cameras as sysfs shows them, and the same one after it was plugged in again."""

from pathlib import Path

import pytest

from ssd_edge.runtime.host.video_devices import KnownDevice, VideoDevice, find_device, video_devices
from tests.fakes.sysfs import plug_in, unplug

INTEGRATED = VideoDevice(0, "Integrated IR", "", "1-5:1.0", "0")
LEFT = VideoDevice(2, "HD Webcam C270", "A1B2", "1-1.2:1.0", "0")
METADATA = VideoDevice(3, "HD Webcam C270", "A1B2", "1-1.2:1.0", "1")
RIGHT = VideoDevice(10, "HD Webcam C270", "20090101", "1-1.3:1.0", "0")
ALL = [INTEGRATED, LEFT, METADATA, RIGHT]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for device in ALL:
        plug_in(tmp_path, device)
    return tmp_path


def test_devices_in_the_order_of_their_numbers(root: Path) -> None:
    assert video_devices(root) == ALL
    unplug(root, LEFT)
    assert video_devices(root) == [INTEGRATED, METADATA, RIGHT]
    assert video_devices(root / "nowhere") == []


@pytest.mark.parametrize(
    ("which", "found"),
    [
        ("10", RIGHT),
        ("20090101", RIGHT),
        ("a1b2", LEFT),
        ("c270", LEFT),  # the first, and none of its later nodes
        ("integrated", INTEGRATED),
        ("7", None),  # of C270, but a number
        ("C920", None),
    ],
)
def test_number_serial_number_or_name(which: str, found: VideoDevice | None) -> None:
    assert find_device(which, ALL) == found


def moved(device: VideoDevice, number: int, bus: str) -> VideoDevice:
    return VideoDevice(number, device.name, device.serial, bus, device.index)


def test_the_same_camera_under_another_number_and_at_another_port() -> None:
    known = KnownDevice(LEFT, ALL)
    assert known.find(ALL) == LEFT
    again = moved(LEFT, 5, "2-4:1.0")
    assert known.find([INTEGRATED, moved(METADATA, 6, "2-4:1.0"), again, RIGHT]) == again
    assert known.find([INTEGRATED, RIGHT]) is None


def test_without_a_serial_number_of_its_own_the_port_decides() -> None:
    for serial in ("", "SN0001"):  # none, or the same in every one that was made
        one, other = VideoDevice(0, "Cam", serial, "1-1:1.0", "0"), VideoDevice(1, "Cam", serial, "1-2:1.0", "0")
        known = KnownDevice(one, [one, other])
        assert known.find([other]) is None
        assert known.find([other, moved(one, 4, "1-1:1.0")]) == moved(one, 4, "1-1:1.0")
    alone = VideoDevice(0, "Cam", "", "1-1:1.0", "0")
    assert KnownDevice(alone, [alone]).find([moved(alone, 0, "1-2:1.0")]) is None
