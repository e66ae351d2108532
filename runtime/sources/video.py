"""Cameras, video files and network addresses as sources, opened by OpenCV."""

from __future__ import annotations

import glob
import logging
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ssd_edge.errors import SourceError
from ssd_edge.images import quiet_opencv, to_bgr8
from ssd_edge.runtime.sources.base import Frame, Source, SourceOptions

logger = logging.getLogger(__name__)

# FFmpeg's own messages would break the live line and can hold an address with its password; what matters
# becomes a SourceError. OpenCV reads this when it first opens a video.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

FFMPEG_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
USER_ENVIRONMENT = dict(os.environ)
MAX_CORRUPT = 100  # frames in a row; more than a burst of lost packets
PLAYED_FPS = 25.0  # of what is played in real time and does not tell its own


class VideoSource(Source):
    """Whatever `cv2.VideoCapture` reads: camera, video file, network stream.

    OpenCV gives every frame in the size of the first, also where the stream changes its own. The stream's own time
    stamps play no part.
    """

    def __init__(self, name: str, capture: cv2.VideoCapture, *, live: bool, paths: tuple[Path, ...] = ()) -> None:
        self.name = name
        self.live = live
        self.paths = paths
        self._capture = capture
        fps = capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 0 < fps <= 1000 else None  # some streams give their clock: 90,000
        count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.frame_count = int(count) if not live and 0 < count < 2**53 else None

    def frames(self) -> Iterator[Frame]:
        read = corrupt_in_a_row = 0
        while (image := self._read()) is not None:
            if image.size:
                yield Frame(to_bgr8(image), read + self.corrupt, time.monotonic(), self.name)
                read += 1
                corrupt_in_a_row = 0
            else:
                self.corrupt += 1
                corrupt_in_a_row += 1
                if corrupt_in_a_row == MAX_CORRUPT:
                    raise SourceError(f"{self.name}: {MAX_CORRUPT} frames in a row are damaged; check the connection")
        if read == 0:
            raise SourceError(f"{self.name} was opened but gives no frame; is it in use, or damaged?")
        if self.live:
            raise SourceError(f"{self.name} stopped after {read} frames; check the device or the connection")
        found = read + self.corrupt
        if self.frame_count and found < 0.99 * self.frame_count - 1:  # containers are often off by a frame
            logger.warning(
                "%s seems to be cut off or damaged: %d of the %d frames it announces could be read",
                self.name,
                found,
                self.frame_count,
            )

    def _read(self) -> NDArray[np.uint8] | None:
        """The next frame, empty where it is there but cannot be decoded; None at the end."""
        with quiet_opencv():
            if not self._capture.grab():
                return None
            ok, image = self._capture.retrieve()
        return image if ok and image is not None else np.zeros((0, 0, 3), np.uint8)

    def close(self) -> None:
        self._capture.release()


class PlayedSource(Source):
    """A file as if it were a camera: frames come at its own pace, whether someone takes them or not."""

    live = True

    def __init__(self, file: Source, fps: float | None = None) -> None:
        self.name = file.name
        self.fps = fps or file.fps or PLAYED_FPS
        self.frame_count = file.frame_count
        self.paths = file.paths
        self._file = file

    def frames(self) -> Iterator[Frame]:
        began_at, interval_s = time.monotonic(), 1 / (self.fps or PLAYED_FPS)
        for frame in self._file.frames():
            time.sleep(max(0.0, began_at + frame.index * interval_s - time.monotonic()))
            self.corrupt = self._file.corrupt
            yield replace(frame, captured_at=time.monotonic())

    def close(self) -> None:
        self._file.close()


def open_camera(name: str, which: str, options: SourceOptions) -> Source:
    index = int(which) if which.isdigit() else _camera_index(which)
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
    return VideoSource(name, capture, live=True)


def _camera_index(name: str, folder: Path = Path("/sys/class/video4linux")) -> int:
    """The number of the camera whose name holds `name`, in upper or lower case; of several the first one."""
    names = {}
    for entry in sorted(folder.glob("video*"), key=lambda entry: int(entry.name.removeprefix("video"))):
        names[int(entry.name.removeprefix("video"))] = (entry / "name").read_text(errors="replace").strip()
    for index, known in names.items():  # a camera's later devices, which share its name, give metadata
        if name.lower() in known.lower():
            return index
    there = ", ".join(f"{index} ({known})" for index, known in names.items()) or "none"
    raise SourceError(f"no camera is called {name!r}; there are: {there}; is it plugged in?")


def open_address(name: str, url: str, options: SourceOptions) -> Source:
    timeout_s, timeout_ms = options.timeout_s, round(1000 * options.timeout_s)
    parameters = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, timeout_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, timeout_ms]
    parameters += [cv2.CAP_PROP_N_THREADS, 1]  # each more would keep a frame back
    if FFMPEG_OPTIONS not in USER_ENVIRONMENT:
        os.environ[FFMPEG_OPTIONS] = f"rtsp_transport;{options.transport}"  # there is no other way to say it
    begin = time.monotonic()
    with quiet_opencv():
        capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG, parameters)
    if not capture.isOpened():
        waited_s = time.monotonic() - begin
        raise SourceError(
            f"cannot open {name}: no usable answer within {waited_s:.1f} s (limit {timeout_s:g} s); "
            "check address, port, user and password, and that the device is on"
        )
    is_file = capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0  # such as an mp4 on a web server
    return VideoSource(name, capture, live=not is_file)


def open_video(path: Path) -> Source:
    with quiet_opencv():
        capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise SourceError(
            f"{path} is no video that OpenCV can read; an mp4 that was cut off while it was written "
            "is lost, others can be converted with: ffmpeg -i IN OUT.mp4"
        )
    return VideoSource(str(path), capture, live=False, paths=(path,))
