"""Video devices in a tree like /sys and /dev."""

import shutil
from pathlib import Path

from ssd_edge.runtime.host.video_devices import VideoDevice


def plug_in(root: Path, device: VideoDevice) -> None:
    """Make what the kernel shows of a USB camera's node."""
    interface = root / "sys/devices/usb" / device.bus.partition(":")[0] / device.bus
    node = root / f"sys/class/video4linux/video{device.number}"
    for folder in (interface, node, root / "dev"):
        folder.mkdir(parents=True, exist_ok=True)
    (node / "name").write_text(device.name + "\n")
    (node / "index").write_text(device.index + "\n")
    (node / "device").symlink_to(interface)
    if device.serial:
        (interface.parent / "serial").write_text(device.serial + "\n")
    (root / f"dev/video{device.number}").touch()


def unplug(root: Path, device: VideoDevice) -> None:
    """Take it away."""
    shutil.rmtree(root / f"sys/class/video4linux/video{device.number}")
    (root / f"dev/video{device.number}").unlink()
