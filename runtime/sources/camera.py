"""Cameras of this machine that OpenCV opens, by number or name."""

from __future__ import annotations

import glob
import logging
import sys
from pathlib import Path

import cv2

from ssd_edge.errors import SourceError
from ssd_edge.images import quiet_opencv
from ssd_edge.runtime.sources.base import Place, Source, SourceOptions
from ssd_edge.runtime.sources.capture import CaptureSource

logger = logging.getLogger(__name__)


def find_camera(which: str, options: SourceOptions) -> Place:
    """A camera by its number, or by a part of its name."""
    name = f"camera {which}"
    return Place(name, True, lambda: _open(name, which, options), camera=True)


def _open(name: str, which: str, options: SourceOptions) -> Source:
    index = int(which) if which.isdigit() else camera_index(which)
    backend = cv2.CAP_V4L2 if sys.platform == "linux" else cv2.CAP_ANY
    with quiet_opencv():
        capture = cv2.VideoCapture(index, backend)
    if not capture.isOpened():
        devices = sorted(glob.glob("/dev/video*"))
        there = f"there are {', '.join(devices)}" if devices else "there is no /dev/video*"
        raise SourceError(f"no {name} that can be opened; {there}; is it plugged in, and not in use?")
    if options.pixel_format:  # first: which sizes and rates there are depends on it
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*options.pixel_format))
    if options.size_wh:
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, options.size_wh[0])
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, options.size_wh[1])
        given_wh = tuple(int(capture.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        if given_wh != options.size_wh:
            logger.warning("%s gives %d×%d pixels, not the %d×%d asked for", name, *given_wh, *options.size_wh)
    if options.fps:
        capture.set(cv2.CAP_PROP_FPS, options.fps)
    return CaptureSource(name, capture)


def camera_index(name: str, folder: Path = Path("/sys/class/video4linux")) -> int:
    """The number of the camera whose name holds `name`, in upper or lower case; of several the first one."""
    names = {}
    for entry in sorted(folder.glob("video*"), key=lambda entry: int(entry.name.removeprefix("video"))):
        names[int(entry.name.removeprefix("video"))] = (entry / "name").read_text(errors="replace").strip()
    for index, known in names.items():  # a camera's later devices, which share its name, give metadata
        if name.lower() in known.lower():
            return index
    there = ", ".join(f"{index} ({known})" for index, known in names.items()) or "none"
    raise SourceError(f"no camera is called {name!r}; there are: {there}; is it plugged in?")
