"""Cameras of this machine, by number, name or serial number: through OpenCV, or GStreamer where that decodes better."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import cv2

from ssd_edge.errors import SourceError
from ssd_edge.images import quiet_opencv
from ssd_edge.runtime.host.kind import read_host
from ssd_edge.runtime.host.v4l2 import Mode, read_camera
from ssd_edge.runtime.host.video_devices import KnownDevice, VideoDevice, find_device, video_devices
from ssd_edge.runtime.sources.base import Place, Source, SourceOptions
from ssd_edge.runtime.sources.camera_mode import MJPG_FORMATS, CameraMode, choose_mode
from ssd_edge.runtime.sources.capture import CaptureSource
from ssd_edge.runtime.sources.gstreamer import GStreamerSource, gstreamer_decodes, has_element
from ssd_edge.runtime.sources.pipelines import NVIDIA_CONVERTER, NVIDIA_DECODER, camera_pipeline, quoted

logger = logging.getLogger(__name__)

CHECK = "is it plugged in, and not in use?"


def find_camera(which: str, options: SourceOptions, root: Path = Path("/")) -> Place:
    """A camera by its number, its serial number, or a part of its name.

    Args:
        root: of the file system, for tests.
    """
    camera = _Camera(which, options, root)
    return Place(camera.name, True, camera.open, camera=True)


class _Camera:
    """What is opened again and again. It is the camera of the first opening, whatever number that gets later."""

    def __init__(self, which: str, options: SourceOptions, root: Path) -> None:
        self.name = f"camera {which}"
        self._which, self._options, self._root = which, options, root
        self._known: KnownDevice | None = None

    def open(self) -> Source:
        devices = video_devices(self._root)
        device = self._known.find(devices) if self._known else find_device(self._which, devices)
        if device is None and (self._known or not self._which.isdecimal()):
            raise SourceError(f"{self._missing()}; found: {_listed(devices)}; is it plugged in?")
        source = self._open(int(self._which) if device is None else device.number, device)
        if device is not None:
            self._known = self._known or KnownDevice(device, devices)
        return source

    def _missing(self) -> str:
        if self._known is None:
            return f"no camera has {self._which!r} as its name or serial number"
        return f"{self.name} ({self._known.device.name}) is not there"

    def _open(self, number: int, device: VideoDevice | None) -> Source:
        options, path = self._options, self._root / f"dev/video{number}"
        modes = _modes_of(path)
        mode = choose_mode(modes, options)
        formats = list(dict.fromkeys(mode.pixel_format for mode in modes))
        if mode and options.pixel_format not in (None, *formats):
            logger.warning("%s has no %s, but %s", self.name, options.pixel_format, ", ".join(formats))
        if mode is not None and self._gstreamer_reads(mode):
            source: Source = self._open_with_gstreamer(path, mode)
        else:
            source, mode = self._open_with_opencv(number, mode)
        self._tell(mode, device)
        return source

    def _gstreamer_reads(self, mode: CameraMode) -> bool:
        asked_for, jpeg = self._options.hwaccel == "gstreamer", mode.pixel_format in MJPG_FORMATS
        return gstreamer_decodes(self._options) and (asked_for or not jpeg or nvidia_decodes_jpeg(self._root))

    def _open_with_gstreamer(self, path: Path, mode: CameraMode) -> Source:
        pipeline = camera_pipeline(
            f"v4l2src device={quoted(str(path))}",
            mode,
            nvidia=has_element(NVIDIA_CONVERTER),
            nvidia_jpeg=nvidia_decodes_jpeg(self._root),
        )
        return GStreamerSource(self.name, pipeline, self._options, live=True, advice=CHECK)

    def _open_with_opencv(self, number: int, mode: CameraMode | None) -> tuple[Source, CameraMode]:
        """The source, and what the camera says that it gives."""
        options = self._options
        with quiet_opencv():
            capture = cv2.VideoCapture(number, cv2.CAP_V4L2 if sys.platform == "linux" else cv2.CAP_ANY)
        if not capture.isOpened():
            raise SourceError(f"no {self.name} that can be opened; found: {_nodes(self._root)}; {CHECK}")
        pixel_format = mode.pixel_format if mode else options.pixel_format
        size_wh = (mode.width, mode.height) if mode else options.size_wh
        if pixel_format:  # first: which sizes and rates there are depends on it
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*pixel_format))
        if size_wh:
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, size_wh[0])
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size_wh[1])
        if fps := options.fps or (mode.fps if mode else None):
            capture.set(cv2.CAP_PROP_FPS, fps)
        given = _given_mode(capture)
        if given.pixel_format in MJPG_FORMATS and capture.set(cv2.CAP_PROP_CONVERT_RGB, 0):
            from ssd_edge.runtime.sources.capture_jpeg import JpegCaptureSource  # loads FFmpeg

            return JpegCaptureSource(self.name, capture, keep_damaged=options.damaged == "keep"), given
        return CaptureSource(self.name, capture), given

    def _tell(self, given: CameraMode, device: VideoDevice | None) -> None:
        """Which mode it is in, and where that is not what was asked for."""
        options = self._options
        logger.info("%s: %s", f"{self.name} ({device.name})" if device and device.name else self.name, given)
        if options.size_wh not in (None, (given.width, given.height)):
            logger.warning(
                "%s gives %d×%d pixels, not the %d×%d asked for",
                *(self.name, given.width, given.height, *options.size_wh),
            )
        if options.fps and given.fps and abs(given.fps - options.fps) > 0.01 * options.fps:
            logger.warning("%s gives %g FPS, not the %g asked for", self.name, given.fps, options.fps)


def nvidia_decodes_jpeg(root: Path = Path("/")) -> bool:
    """A Jetson's `nvv4l2decoder` decodes JPEG; Thor's does not.

    https://docs.nvidia.com/metropolis/deepstream/dev-guide/text/DS_plugin_gst-nvvideo4linux2.html
    """
    return has_element(NVIDIA_DECODER) and "Thor" not in (read_host(root).board or "")


def _given_mode(capture: cv2.VideoCapture) -> CameraMode:
    fourcc = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little", signed=True).decode("latin-1")
    fps = capture.get(cv2.CAP_PROP_FPS)
    width, height = (int(capture.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    return CameraMode(fourcc.strip(" \0"), width, height, fps if 0 < fps <= 1000 else None)


def _modes_of(path: Path) -> tuple[Mode, ...]:
    """What a camera can do; nothing where it cannot be opened, which whoever opens it to read it explains."""
    if sys.platform != "linux":
        return ()
    try:
        device = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            camera = read_camera(device)
        finally:
            os.close(device)
    except OSError:
        return ()
    return camera.modes if camera else ()


def _listed(devices: list[VideoDevice]) -> str:
    return ", ".join(f"{device.number} ({device.name})" for device in devices) or "none"


def _nodes(root: Path) -> str:
    return ", ".join(f"/dev/{path.name}" for path in sorted((root / "dev").glob("video*"))) or "no /dev/video*"
