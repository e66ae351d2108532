"""The video devices of this machine, and which of them is the camera that was there before.

https://docs.kernel.org/admin-guide/sysfs-rules.html; a USB device's files: Documentation/ABI/stable/sysfs-bus-usb
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ssd_edge.runtime.host.kind import read_text


@dataclass(frozen=True)
class VideoDevice:
    """One node, `/dev/video<number>`.

    Attributes:
        number: changes when the camera is plugged in again.
        name: of the camera.
        serial: of the USB device; "" where it has none.
        bus: where it is plugged in, such as `1-1.2:1.0` for port 2 of a hub in port 1, and its interface.
        index: which of the nodes of its interface it is; those after the first give metadata.
    """

    number: int
    name: str
    serial: str = ""
    bus: str = ""
    index: str = ""

    def is_like(self, other: VideoDevice) -> bool:
        """Name, serial number and part of the device are the same, wherever it is plugged in."""
        mine, its = ((one.name, one.serial, one.bus.partition(":")[2], one.index) for one in (self, other))
        return mine == its


def video_devices(root: Path = Path("/")) -> list[VideoDevice]:
    """All nodes, in the order of their numbers.

    Args:
        root: of the file system, for tests.
    """
    found = []
    for entry in (root / "sys/class/video4linux").glob("video*"):
        if number := re.fullmatch(r"video(\d+)", entry.name):
            interface = (entry / "device").resolve()
            serial = read_text(interface.parent / "serial").strip()
            name, index = read_text(entry / "name").strip(), read_text(entry / "index").strip()
            found.append(VideoDevice(int(number[1]), name, serial, interface.name, index))
    return sorted(found, key=lambda device: device.number)


def find_device(which: str, devices: Iterable[VideoDevice]) -> VideoDevice | None:
    """The first device of that number, else of that serial number, else with that in its name, upper or lower case."""
    devices = list(devices)
    return (
        next((device for device in devices if which == str(device.number)), None)
        or next((device for device in devices if which.lower() == device.serial.lower()), None)
        or next((device for device in devices if not which.isdecimal() and which.lower() in device.name.lower()), None)
    )


class KnownDevice:
    """A camera to be found again: by its serial number, or where it has none, or others have the same, by its place.

    Args:
        device: the camera.
        devices: all that are there.
    """

    def __init__(self, device: VideoDevice, devices: Iterable[VideoDevice]) -> None:
        self.device = device
        self._only_one = bool(device.serial) and sum(map(device.is_like, devices)) == 1

    def find(self, devices: Iterable[VideoDevice]) -> VideoDevice | None:
        """The camera among these, under whatever number; None where it is not there."""
        alike = [device for device in devices if device.is_like(self.device)]
        there = [device for device in alike if device.bus == self.device.bus]
        return next(iter(there or (alike if self._only_one else ())), None)
