"""Where frames come from: a camera, a video file, images, or an RTSP/HTTP address, all alike."""

from __future__ import annotations

import glob
import logging
import os
import re
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from ssd_edge.errors import DatasetError, SourceError
from ssd_edge.images import IMAGE_SUFFIXES, load_image, quiet_opencv, to_bgr8
from ssd_edge.runtime.redact import clean_url

logger = logging.getLogger(__name__)

# FFmpeg's own messages would break the live line and can hold an address with its password; what matters
# becomes a SourceError. OpenCV reads this when it first opens a video.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

FFMPEG_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
USER_ENVIRONMENT = dict(os.environ)

TIMEOUT_S = 8.0  # a slow camera answers DESCRIBE within about 3 s
URL_SCHEMES = ("rtsp", "rtsps", "rtmp", "http", "https", "udp", "tcp", "srt")
MAX_CORRUPT = 100  # frames in a row; more than a burst of lost packets
PLAYED_FPS = 25.0  # of what is played in real time and does not tell its own

Uri = str | int | Path


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


class SourceInfo(Protocol):
    """What outputs ask of a source.

    Attributes:
        name: for messages; without any password.
        live: it does not wait for the reader, so that late frames are worth nothing.
        fps: frames a second, None where there is no such thing or it is not known.
        frame_count: how many frames there should be, None where not known.
        paths: the files that are read, which no output may overwrite.
    """

    @property
    def name(self) -> str: ...
    @property
    def live(self) -> bool: ...
    @property
    def fps(self) -> float | None: ...
    @property
    def frame_count(self) -> int | None: ...
    @property
    def paths(self) -> tuple[Path, ...]: ...


class Source(ABC):
    """Gives frames in order; a context manager. A `SourceInfo`.

    Attributes:
        corrupt: frames that came so damaged that they were left out.
    """

    name: str
    live: bool = False
    fps: float | None = None
    frame_count: int | None = None
    paths: tuple[Path, ...] = ()
    corrupt: int = 0

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
        names = names_below_common_folder(self.paths)
        for index, (path, name) in enumerate(zip(self.paths, names, strict=True)):
            try:
                image = load_image(path)
            except DatasetError as error:
                logger.warning("left out: %s", error)
                self.corrupt += 1
                continue
            yield Frame(image, index, time.monotonic(), name)
        if self.corrupt == len(self.paths):
            raise SourceError(f"{self.name}: none of {len(self.paths)} images can be read")

    def close(self) -> None:
        pass  # a file is open only while it is read


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


@dataclass(frozen=True)
class SourceOptions:
    """How to open a source; each option counts where it means something.

    Attributes:
        size_wh, fps, pixel_format: what to ask of a camera: `(1280, 720)`, 30, `"MJPG"`. It gives the nearest it has.
            `fps` is also the pace of `realtime`.
        transport: of RTSP: `tcp`, or `udp`, over which lost packets smear the picture; one for the whole process.
        realtime: play a file as if it were a camera.
        timeout_s: how long a network stream may take to open, and to give each frame.
    """

    size_wh: tuple[int, int] | None = None
    fps: float | None = None
    pixel_format: str | None = None
    transport: str = "tcp"
    realtime: bool = False
    timeout_s: float = TIMEOUT_S


@dataclass(frozen=True)
class Place:
    """Where frames can be had; not opened yet.

    Attributes:
        name: without any password.
        remote: a camera or an address, which may be there later if it is not now.
        open: opens it; raises SourceError.
    """

    name: str
    remote: bool
    open: Callable[[], Source]


def open_source(uri: Uri, options: SourceOptions | None = None) -> Source:
    """Open what `uri` names; see `find_source`.

    Raises:
        SourceError: there is no such thing, or it cannot be opened; passwords are left out of the message.
    """
    return find_source(uri, options).open()


def find_source(uri: Uri, options: SourceOptions | None = None) -> Place:
    """Find out what `uri` names.

    Args:
        uri: a camera's number, `/dev/video0`, `camera:0` or `camera:NAME`; `csi:0` for a camera of a Jetson; an address
            such as `rtsp://…`; an image; a folder or a glob pattern of images; or a video file. A string of digits is
            a camera where no file is called so; a `Path` is never a camera or an address.

    Raises:
        SourceError: it can be none of these, also later.
    """
    options = options or SourceOptions()
    path = Path(str(uri))
    if isinstance(uri, int):
        return _camera(str(uri), options)
    if isinstance(uri, str):
        if path.is_char_device():
            uri = str(path.resolve())  # /dev/v4l/by-id/… is a link
        if (device := re.fullmatch(r"(?:/dev/video)?(\d+)", uri)) and (path.is_char_device() or not path.exists()):
            return _camera(device[1], options)
        if uri.startswith("camera:"):
            return _camera(uri.removeprefix("camera:"), options)
        if csi := re.fullmatch(r"csi:(?://)?(\d+)", uri):
            from ssd_edge.runtime.sources.csi import find_csi_camera  # it needs this module

            return find_csi_camera(int(csi[1]), options)
        if "://" in uri:
            return _address(uri, options)
    text = str(uri)
    open_file: Callable[[], Source]
    if path.is_dir():
        open_file = partial(_open_images, text, sorted(path.iterdir()))
    elif path.is_file() or path.is_fifo():
        open_file = partial(ImageSource, text, (path,)) if is_image(path) else partial(_open_video, path)
    elif glob.has_magic(text):
        open_file = partial(_open_images, text, sorted(map(Path, glob.glob(text, recursive=True))))
    else:
        raise SourceError(
            f"no source {text}; expected a camera's number or name (camera:NAME), an address such as rtsp://…, or the "
            "path of a video, an image or a folder of images"
        )
    if options.realtime:
        return Place(text, False, lambda: PlayedSource(open_file(), options.fps))
    return Place(text, False, open_file)


def names_below_common_folder(paths: tuple[Path, ...]) -> tuple[str, ...]:
    """What each file is called from the deepest folder that holds all of them, never above it.

    A file that is a link is called as the link is, wherever it leads.
    """
    if not paths:
        return ()
    folders = [path.parent.resolve() for path in paths]
    common = os.path.commonpath(folders)
    return tuple(os.path.relpath(folder / path.name, common) for folder, path in zip(folders, paths, strict=True))


def _camera(which: str, options: SourceOptions) -> Place:
    name = f"camera {which}"
    return Place(name, True, lambda: _open_camera(name, which, options))


def _open_camera(name: str, which: str, options: SourceOptions) -> Source:
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


def _address(url: str, options: SourceOptions) -> Place:
    name = clean_url(url)
    scheme = url.split("://")[0].lower()
    if scheme not in URL_SCHEMES:
        raise SourceError(f"{name}: unknown kind of address; expected one of {', '.join(URL_SCHEMES)}")
    return Place(name, True, lambda: _open_address(name, url, options))


def _open_address(name: str, url: str, options: SourceOptions) -> Source:
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


def _open_video(path: Path) -> Source:
    with quiet_opencv():
        capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise SourceError(
            f"{path} is no video that OpenCV can read; an mp4 that was cut off while it was written "
            "is lost, others can be converted with: ffmpeg -i IN OUT.mp4"
        )
    return VideoSource(str(path), capture, live=False, paths=(path,))


def _open_images(name: str, paths: list[Path]) -> Source:
    images = tuple(path for path in paths if is_image(path))
    if not images:
        raise SourceError(f"no image in {name}; expected files that end in {', '.join(sorted(IMAGE_SUFFIXES))}")
    return ImageSource(name, images)


def is_image(path: Path) -> bool:
    """By its name."""
    return path.suffix.lower() in IMAGE_SUFFIXES
