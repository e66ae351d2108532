"""Where frames come from: a camera, a video file, images, or an RTSP/HTTP address, all alike."""

from __future__ import annotations

import glob
import logging
import os
import re
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from numpy.typing import NDArray

from ssd_edge.errors import DatasetError, SourceError
from ssd_edge.images import IMAGE_SUFFIXES, load_image, quiet_opencv, to_bgr8

logger = logging.getLogger(__name__)

# FFmpeg's own messages would break the live line and can hold an address with its password; what matters
# becomes a SourceError. OpenCV reads this when it first opens a video.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

TIMEOUT_S = 8.0  # a slow camera answers DESCRIBE within about 3 s
URL_SCHEMES = ("rtsp", "rtsps", "rtmp", "http", "https", "udp", "tcp", "srt")


@dataclass(frozen=True)
class Frame:
    """One frame of a source.

    Attributes:
        image_bgr: uint8 [H, W, 3].
        index: 0-based position in the source; frames that were dropped are counted.
        captured_at: `time.monotonic()` when it had been read, in seconds.
        name: what it is called in outputs: the image's path within its folder, or the source's name.
    """

    image_bgr: NDArray[np.uint8]
    index: int
    captured_at: float
    name: str


class Source(ABC):
    """Gives frames in order; a context manager.

    Attributes:
        name: for messages; without any password.
        live: it does not wait for the reader, so that late frames are worth nothing.
        fps: frames a second, None where there is no such thing or it is not known.
        frame_count: how many frames there should be, None where not known.
        paths: the files that are read, which no output may overwrite.
    """

    name: str
    live: bool = False
    fps: float | None = None
    frame_count: int | None = None
    paths: tuple[Path, ...] = ()

    @abstractmethod
    def frames(self) -> Iterator[Frame]:
        """The frames, once.

        Raises:
            SourceError: there is not one frame, or a live source has ended.
        """

    @abstractmethod
    def close(self) -> None:
        """Free the device or file."""

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ImageSource(Source):
    """Image files. One that cannot be read is named in a warning and left out."""

    def __init__(self, name: str, paths: tuple[Path, ...]) -> None:
        self.name = name
        self.paths = paths
        self.frame_count = len(paths)

    def frames(self) -> Iterator[Frame]:
        read = 0
        names = names_below_common_folder(self.paths)
        for index, (path, name) in enumerate(zip(self.paths, names, strict=True)):
            try:
                image = load_image(path)
            except DatasetError as error:
                logger.warning("left out: %s", error)
                continue
            read += 1
            yield Frame(image, index, time.monotonic(), name)
        if not read:
            raise SourceError(f"{self.name}: none of {len(self.paths)} images can be read")

    def close(self) -> None:
        pass  # a file is open only while it is read


class VideoSource(Source):
    """Whatever `cv2.VideoCapture` reads: camera, video file, network stream.

    OpenCV gives every frame in the size of the first, also where the stream changes its own.
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
        index = 0
        while True:
            with quiet_opencv():
                ok, image = self._capture.read()
            if not ok:
                break
            yield Frame(to_bgr8(image), index, time.monotonic(), self.name)
            index += 1
        if index == 0:
            raise SourceError(f"{self.name} was opened but gives no frame; is it in use, or damaged?")
        if self.live:
            raise SourceError(f"{self.name} stopped after {index} frames; check the device or the connection")
        if self.frame_count and index < 0.99 * self.frame_count - 1:  # containers are often off by a frame
            logger.warning(
                "%s seems to be cut off or damaged: %d of the %d frames it announces could be read",
                self.name,
                index,
                self.frame_count,
            )

    def close(self) -> None:
        self._capture.release()


def open_source(uri: str | int | Path, *, timeout_s: float = TIMEOUT_S) -> Source:
    """Open what `uri` names.

    Args:
        uri: a camera index or `/dev/video0`; an address such as `rtsp://…`; an image; a folder or a glob
            pattern of images; or a video file. A string of digits is a camera where no file is called so; a
            `Path` is never a camera or an address.
        timeout_s: how long a network stream may take to open, and to give each frame.

    Raises:
        SourceError: there is no such thing, or it cannot be opened; passwords are left out of the message.
    """
    if isinstance(uri, int):
        return _open_camera(uri)
    text, path = str(uri), Path(uri)
    if isinstance(uri, str):
        if (device := re.fullmatch(r"(?:/dev/video)?(\d+)", uri)) and (path.is_char_device() or not path.exists()):
            return _open_camera(int(device[1]))
        if "://" in uri:
            return _open_url(uri, timeout_s)
    if path.is_dir():
        return _open_images(text, sorted(path.iterdir()))
    if path.is_file():
        return ImageSource(text, (path,)) if _is_image(path) else _open_video(path)
    if glob.has_magic(text):
        return _open_images(text, sorted(map(Path, glob.glob(text, recursive=True))))
    raise SourceError(
        f"no source {text}; expected a camera index, an address such as rtsp://…, or the path of a video, "
        "an image or a folder of images"
    )


def names_below_common_folder(paths: tuple[Path, ...]) -> tuple[str, ...]:
    """What each file is called from the deepest folder that holds all of them, never above it.

    A file that is a link is called as the link is, wherever it leads.
    """
    if not paths:
        return ()
    folders = [path.parent.resolve() for path in paths]
    common = os.path.commonpath(folders)
    return tuple(os.path.relpath(folder / path.name, common) for folder, path in zip(folders, paths, strict=True))


def redact_url(url: str) -> str:
    """The address without user, password and query, any of which may be secret."""
    head, mark, query = url.partition("?")
    if "@" in query:  # is the "?" part of a password? then more than the query is secret
        return url.split("://")[0] + "://***"
    return re.sub(r"://.*@", "://***@", head) + (mark and "?…")


def _open_camera(index: int) -> Source:
    backend = cv2.CAP_V4L2 if sys.platform == "linux" else cv2.CAP_ANY
    with quiet_opencv():
        capture = cv2.VideoCapture(index, backend)
    if not capture.isOpened():
        devices = sorted(glob.glob("/dev/video*"))
        there = f"there are {', '.join(devices)}" if devices else "there is no /dev/video*"
        raise SourceError(f"no camera {index} that can be opened; {there}; is it plugged in, and not in use?")
    return VideoSource(f"camera {index}", capture, live=True)


def _open_video(path: Path) -> Source:
    with quiet_opencv():
        capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise SourceError(
            f"{path} is no video that OpenCV can read; an mp4 that was cut off while it was written "
            "is lost, others can be converted with: ffmpeg -i IN OUT.mp4"
        )
    return VideoSource(str(path), capture, live=False, paths=(path,))


def _open_url(url: str, timeout_s: float) -> Source:
    name = redact_url(url)
    scheme = url.split("://")[0].lower()
    if scheme not in URL_SCHEMES:
        raise SourceError(f"{name}: unknown kind of address; expected one of {', '.join(URL_SCHEMES)}")
    # Time-outs are honoured by FFmpeg alone. RTSP over TCP: over UDP, lost packets smear the picture.
    if scheme in ("rtsp", "rtsps"):
        os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;tcp")
    timeout_ms = round(1000 * timeout_s)
    timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, timeout_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, timeout_ms]
    begin = time.monotonic()
    with quiet_opencv():
        capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG, timeouts)
    if not capture.isOpened():
        waited_s = time.monotonic() - begin
        raise SourceError(
            f"cannot open {name}: no usable answer within {waited_s:.1f} s (limit {timeout_s:g} s); "
            "check address, port, user and password, and that the device is on"
        )
    is_file = capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0  # such as an mp4 on a web server
    return VideoSource(name, capture, live=not is_file)


def _open_images(name: str, paths: list[Path]) -> Source:
    images = tuple(path for path in paths if _is_image(path))
    if not images:
        raise SourceError(f"no image in {name}; expected files that end in {', '.join(sorted(IMAGE_SUFFIXES))}")
    return ImageSource(name, images)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES
