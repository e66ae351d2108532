"""Check of the cameras, and of the permission to use them."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ssd_edge.runtime.doctor.finding import MISSING, NONE, OK, PROBLEM, Finding
from ssd_edge.runtime.host.fixes import GSTREAMER_FIX
from ssd_edge.runtime.host.kind import read_host
from ssd_edge.runtime.host.v4l2 import Mode, read_camera
from ssd_edge.runtime.host.video_devices import video_devices

GIVES = "stream --camera, --csi"
REFUSALS = (os.strerror(errno.EACCES), os.strerror(errno.EPERM))  # by the file's mode; by a container
CSI_DRIVER = "tegra-video"  # its cameras give raw Bayer pictures, which take a Jetson's image processor: `stream --csi`


def cameras(root: Path = Path("/")) -> Finding:
    """Every camera with its modes; those that cannot be opened with the reason."""
    found = [camera for device in _devices(root / "dev") if (camera := _look_at(device, root))]
    facts = {"cameras": found}
    if not found:
        return _without_cameras(root, facts)
    summary = "; ".join(f"{camera['device']} {camera['name']}: {_describe(camera)}" for camera in found)
    good = [camera for camera in found if camera["error"] is None]
    if any(camera["driver"] != CSI_DRIVER for camera in good) or (good and _has_gstreamer()):
        return Finding(OK, summary, facts)
    first = next((camera for camera in found if camera["error"]), found[0])
    return Finding(PROBLEM, summary, facts, GIVES, _fix(first, root))


def _fix(camera: dict[str, Any], root: Path) -> str:
    if camera["error"] in REFUSALS:
        if read_host(root).container:
            group = (root / camera["device"].lstrip("/")).stat().st_gid
            return f"start the container with: docker run --device {camera['device']} --group-add {group}"
        return "sudo usermod -aG video $USER, then log in again"
    if camera["error"]:
        return "close what uses it, or plug it in again; sudo dmesg says more"
    return f"a Jetson's CSI camera is read through GStreamer: {GSTREAMER_FIX}"


def _has_gstreamer() -> bool:
    from ssd_edge.runtime.sources.csi import has_gstreamer  # loads OpenCV, which may be broken: only where it is needed

    return has_gstreamer()


def _without_cameras(root: Path, facts: dict[str, Any]) -> Finding:
    names = sorted(path.name for path in (root / "sys/class/video4linux").glob("video*"))
    if names and read_host(root).container:
        options = " ".join(f"--device /dev/{name}" for name in names)
        summary = f"this container does not have the machine's {', '.join(names)}"
        return Finding(MISSING, summary, facts, GIVES, f"start the container with: docker run {options}")
    return Finding(NONE, "none; network cameras and files need none", facts)


def _devices(folder: Path) -> list[Path]:
    numbered = [
        (int(match[1]), path) for path in folder.glob("video*") if (match := re.fullmatch(r"video(\d+)", path.name))
    ]
    return [path for _, path in sorted(numbered)]


def _look_at(path: Path, root: Path) -> dict[str, Any] | None:
    known = next((one for one in video_devices(root) if path.name == f"video{one.number}"), None)
    name, serial = (known.name, known.serial or None) if known else ("", None)
    camera: dict[str, Any] = {"device": f"/dev/{path.name}", "name": name, "serial": serial}
    camera |= {"driver": None, "modes": [], "error": None}
    try:
        device = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            answer = read_camera(device)
        finally:
            os.close(device)
    except OSError as error:
        return camera | {"error": os.strerror(error.errno) if error.errno else str(error)}
    return camera | asdict(answer) if answer else None


def _describe(camera: dict[str, Any]) -> str:
    """The largest size of each pixel format, with its highest frame rate."""
    if camera["error"]:
        return str(camera["error"])
    return ", ".join(_largest(Mode(**mode) for mode in camera["modes"])) or "no modes"


def _largest(modes: Iterable[Mode]) -> list[str]:
    largest: dict[str, Mode] = {}
    for mode in modes:
        before = largest.get(mode.pixel_format)
        if before is None or mode.width * mode.height > before.width * before.height:
            largest[mode.pixel_format] = mode
    return [
        f"{name} {mode.width}×{mode.height}" + (f" at {mode.fps[-1]:g} FPS" if mode.fps else "")
        for name, mode in largest.items()
    ]
