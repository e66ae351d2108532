"""Where results go: a window, an annotated video, annotated images, JSON lines; see `Sink`."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from ssd_edge.errors import MissingDependencyError, SinkError
from ssd_edge.images import IMAGE_SUFFIXES, quiet_opencv
from ssd_edge.runtime.results import Result
from ssd_edge.runtime.sinks.disk_space import FREE_FLOOR_BYTES
from ssd_edge.runtime.sources.find import SourceInfo, is_image, names_below_common_folder

logger = logging.getLogger(__name__)

VIDEO_CODES = {
    ".mp4": "mp4v",
    ".mov": "mp4v",
    ".mkv": "mp4v",
    ".avi": "XVID",
}  # every FFmpeg has MPEG-4 part 2
RESERVE_BYTES = 16 * 2**20  # left free, so that the index of an .mp4, without which it is lost, still fits
LIVE_FPS = 25.0  # for a live source that does not tell its own
PROBE_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Recording:
    """How a video is kept; see `VideoRecorder`."""

    segment_s: float | None = None
    keep_bytes: int | None = None
    free_floor_bytes: int = FREE_FLOOR_BYTES


class EndOfStream(Exception):
    """A sink's word that the user asks to end: nothing has gone wrong."""


class Sink(Protocol):
    """Takes each frame of a stream with what was found in it, in a thread of its own.

    Constructing one checks that it will be able to write, and destroys nothing yet. It may have more: `status(source,
    status, detail)` and `stats(source, stats)` are told how sources do, and `idle()` is called now and then while
    there is no frame.
    """

    @property
    def needs_drawing(self) -> bool:
        """It wants the frame with its overlay; may change with time."""
        return True

    def write(self, result: Result, drawn_bgr: NDArray[np.uint8]) -> None:
        """Take a frame.

        Args:
            drawn_bgr: uint8 [H, W, 3], the frame with its overlay, or without where that is not wanted; must not be
                changed.

        Raises:
            SinkError: it cannot be written.
            EndOfStream: the user asks to end.
        """

    def close(self) -> None:
        """Complete the output."""
        return


class WindowSink(Sink):
    """A window a source on the screen; q, Esc or closing one ends the stream.

    Raises:
        SinkError: there is no display, or OpenCV was built without windows.
    """

    def __init__(self) -> None:
        os.environ.setdefault("QT_LOGGING_RULES", "default.warning=false")  # OpenCV's Qt misses fonts, at length
        # Without a display OpenCV's Qt aborts the whole process, so another process tries first.
        probe = "import cv2; cv2.namedWindow('probe'); cv2.waitKey(1)"
        try:
            subprocess.run([sys.executable, "-c", probe], capture_output=True, check=True, timeout=PROBE_TIMEOUT_S)
        except subprocess.SubprocessError as error:
            raise SinkError(
                "cannot open a window: no display can be reached, or this OpenCV was built without windows; "
                "leave out --show and use --save, or set DISPLAY"
            ) from error

        self._titles: set[str] = set()

    def write(self, result: Result, drawn_bgr: NDArray[np.uint8]) -> None:
        title = f"ssd-edge: {result.source}"
        if title not in self._titles:
            cv2.namedWindow(title, cv2.WINDOW_NORMAL)
            self._titles.add(title)
        elif not _is_visible(title):  # imshow would open another
            raise EndOfStream
        cv2.imshow(title, drawn_bgr)
        self.idle()

    def idle(self) -> None:
        """Let the window live, also while no frame comes."""
        if self._titles and (
            cv2.waitKey(1) & 0xFF in (ord("q"), 27) or not all(map(_is_visible, self._titles))
        ):  # closed
            raise EndOfStream

    def close(self) -> None:
        if self._titles:
            cv2.destroyAllWindows()


def _is_visible(title: str) -> bool:
    return bool(cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) >= 1)


class VideoSink(Sink):
    """An annotated video. The first frame fixes its size; others are letterboxed.

    From a live source it plays in real time: frames are repeated or left out according to when they were
    captured. A Matroska file (.mkv) stays readable even after a power cut; an .mp4 needs `close`.

    Raises:
        SinkError: the file cannot be written, or is an input of the stream. Later: the disk is almost full (what
            is written so far can be played), or `close` finds frames lost.
    """

    def __init__(self, path: Path, source: SourceInfo) -> None:
        check_writable(path, source)
        self._path = path
        self._folder = path.resolve().parent  # a link may lead to another disk
        self._source = source
        self._fps = LIVE_FPS
        self._writer: cv2.VideoWriter | None = None
        self._size_hw = (0, 0)
        self._letterboxed = False
        self._began_at = 0.0
        self._written = 0

    def write(self, result: Result, drawn_bgr: NDArray[np.uint8]) -> None:
        if shutil.disk_usage(self._folder).free < RESERVE_BYTES:
            raise SinkError(
                f"{self._path} ends after {self._written} frames: less than {RESERVE_BYTES >> 20} MiB are free on "
                "its disk; free some or choose another"
            )
        height, width = drawn_bgr.shape[:2]
        if self._writer is None:
            self._fps = self._source.fps or LIVE_FPS
            self._writer = self._open(height, width)
            self._began_at = result.frame.captured_at
        if (height, width) != self._size_hw:
            if not self._letterboxed:
                logger.warning("%s: the frame size has changed; it is scaled to the first one's", self._path)
            self._letterboxed = True
            drawn_bgr = letterbox(drawn_bgr, self._size_hw)
        due = self._written + 1
        if self._source.live:
            due = round((result.frame.captured_at - self._began_at) * self._fps) + 1
        while self._written < due:
            with quiet_opencv():  # it tells a failure to stderr alone; `close` counts
                self._writer.write(drawn_bgr)
            self._written += 1

    def _open(self, height: int, width: int) -> cv2.VideoWriter:
        code = cv2.VideoWriter.fourcc(*VIDEO_CODES[self._path.suffix.lower()])
        with quiet_opencv():
            writer = cv2.VideoWriter(str(self._path), cv2.CAP_FFMPEG, code, self._fps, (width, height))
        if not writer.isOpened():
            raise SinkError(f"cannot write {width}×{height} pixels as a video to {self._path}; try a folder")
        self._size_hw = (height, width)
        return writer

    def close(self) -> None:
        """Write the index, without which an .mp4 cannot be played, and see that every frame is in the file."""
        if self._writer is None:
            return
        with quiet_opencv():
            self._writer.release()
            self._writer = None
            kept = _count_frames(self._path)
        if kept != self._written:
            raise SinkError(
                f"{self._path} holds {kept} of the {self._written} frames that were written to it; is the disk full?"
            )


class ImagesSink(Sink):
    """Annotated images in a folder: image files under the names they have in theirs, other frames by number.

    Raises:
        SinkError: the folder cannot be written, or is the one that the images come from.
    """

    def __init__(self, folder: Path, source: SourceInfo) -> None:
        self._named = all(map(is_image, source.paths)) and bool(source.paths)
        if self._named:
            _check_no_input(source, *(folder / name for name in names_below_common_folder(source.paths)))
        _make_folder(folder)
        self._folder = folder

    def write(self, result: Result, drawn_bgr: NDArray[np.uint8]) -> None:
        path = self._folder / (result.frame.name if self._named else f"{result.frame.index:06d}.jpg")
        _make_folder(path.parent)
        _write_image(path, drawn_bgr)


class ImageSink(Sink):
    """One annotated image, for a source of one image.

    Raises:
        SinkError: the file cannot be written or is the input, or the source has more frames.
    """

    def __init__(self, path: Path, source: SourceInfo) -> None:
        if source.frame_count != 1:
            raise SinkError(f"{path} can take one frame; save {source.name} to a folder or a video instead")
        check_writable(path, source)
        self._path = path

    def write(self, result: Result, drawn_bgr: NDArray[np.uint8]) -> None:
        _write_image(self._path, drawn_bgr)


class JsonLinesSink(Sink):
    """One JSON object a frame and line, `Result.record`, to a file or, for "-", to the standard output.

    Args:
        sources: all of the stream.
        append: keep the lines that the file has, as a service that is started anew has to.

    Raises:
        SinkError: the file cannot be written or is an input of the stream, or is a named pipe without a reader.
    """

    needs_drawing = False

    def __init__(self, target: str, *sources: SourceInfo, append: bool = False) -> None:
        self._target, self._append = target, append
        self._file: IO[str] | None = None
        if target != "-" and Path(target).is_fifo():
            self._file = _open_pipe(target)  # to open it for a check alone would end its reader
        elif target != "-":
            check_writable(Path(target), *sources)

    def write(self, result: Result, drawn_bgr: NDArray[np.uint8]) -> None:
        try:
            if self._file is None:
                self._file = self._open()
            self._file.write(json.dumps(result.record()) + "\n")  # ASCII: a name may be no UTF-8
            self._file.flush()  # a reader of the file or pipe sees each frame at once
        except BrokenPipeError:  # the reader, such as `head`, has seen enough
            self._discard()
            raise EndOfStream from None
        except OSError as error:
            self._discard()
            raise SinkError(f"cannot write {self._target}: {error.strerror}; is the disk full?") from error

    def _open(self) -> IO[str]:
        if self._target == "-":
            return sys.stdout
        if self._append and Path(self._target).is_file():
            with suppress(OSError):  # it may be written and not read
                _end_the_line(Path(self._target))
        return open(self._target, "a" if self._append else "w", encoding="utf-8")

    def _discard(self) -> None:
        """Drop what could not be written; closing the file, or Python at its exit, would try once more."""
        if self._target == "-":
            with open(os.devnull, "w") as devnull:
                os.dup2(devnull.fileno(), sys.stdout.fileno())
        elif self._file is not None:
            with suppress(OSError):
                self._file.close()

    def close(self) -> None:
        if self._file is not None and self._target != "-":
            self._file.close()


def _end_the_line(path: Path) -> None:
    """A last line that was cut off, as by a power cut, is to spoil no other."""
    with open(path, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        whole = file.read() in (b"", b"\n")
    if not whole:
        with open(path, "ab") as file:
            file.write(b"\n")


def save_sink(path: Path, source: SourceInfo, recording: Recording | None = None) -> Sink:
    """The sink that fits the name: a video (.mp4, .mov, .mkv, .avi), one image, or else a folder of images.

    Args:
        recording: of a video; needs PyAV. Without it, PyAV is taken where it is installed, else OpenCV.

    Raises:
        SinkError: another suffix, or as the sink it is.
        MissingDependencyError: `recording` is asked for, and there is no PyAV.
    """
    suffix = path.suffix.lower()
    if recording is not None and suffix not in VIDEO_CODES:
        raise SinkError(f"{path} is no video, and only a video comes in segments; expected a name that ends in .mp4")
    if suffix in VIDEO_CODES:
        if recording is not None or (importlib.util.find_spec("av") and suffix != ".avi"):
            return _recorder(path, source, recording or Recording())
        return VideoSink(path, source)
    if suffix in IMAGE_SUFFIXES:
        return ImageSink(path, source)
    if suffix and not path.is_dir():
        raise SinkError(
            f"cannot save to {path}: {suffix} is no known kind; expected {', '.join(VIDEO_CODES)}, an image, "
            "or the name of a folder"
        )
    return ImagesSink(path, source)


def _recorder(path: Path, source: SourceInfo, recording: Recording) -> Sink:
    try:
        from ssd_edge.runtime.sinks.recorder import VideoRecorder
    except ModuleNotFoundError as error:
        if error.name != "av":
            raise
        raise MissingDependencyError(
            "segments of video need the package av, which is not installed", "video"
        ) from error
    return VideoRecorder(path, source, **asdict(recording))


def check_writable(path: Path, *sources: SourceInfo) -> None:
    """Open for appending: what is there stays, and what is made for the test is removed."""
    for source in sources:
        _check_no_input(source, path)
    existed = path.exists()
    _make_folder(path.parent)
    try:
        with open(path, "ab"):
            pass
    except OSError as error:
        raise SinkError(f"cannot write {path}: {error.strerror}; choose a path that is writable") from error
    if not existed:
        path.unlink()


def _open_pipe(target: str) -> IO[str]:
    """Open a named pipe, at once or not at all: a plain `open` waits for a reader, and no signal ends that."""

    def open_at_once(path: str, flags: int) -> int:
        descriptor = os.open(path, flags | os.O_NONBLOCK)
        os.set_blocking(descriptor, True)
        return descriptor

    try:
        return open(target, "w", encoding="utf-8", opener=open_at_once)
    except OSError as error:
        raise SinkError(f"cannot write to the pipe {target}: {error.strerror}; start its reader first") from error


def _check_no_input(source: SourceInfo, *outputs: Path) -> None:
    inputs = {_file_id(path) for path in source.paths} - {None}
    for path in outputs:
        if _file_id(path) in inputs:
            raise SinkError(f"{path} is an input, which would be overwritten; choose another name or folder")


def _file_id(path: Path) -> tuple[int, int] | None:
    """Tells files apart whatever path or link leads to them; None where there is no file."""
    try:
        status = os.stat(os.path.realpath(path))  # so `new/../a.jpg` is found before `new` is made
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SinkError(f"cannot make the folder {folder}: {error.strerror}; choose another") from error


def _write_image(path: Path, image_bgr: NDArray[np.uint8]) -> None:
    if path.suffix.lower() == ".pgm":  # grey only
        image_bgr = np.asarray(cv2.cvtColor(image_bgr, cv2.COLOR_BGR2GRAY))
    try:
        with quiet_opencv():
            ok, encoded = cv2.imencode(path.suffix, image_bgr)
    except cv2.error:  # or it only says no
        ok = False
    if not ok:
        height, width = image_bgr.shape[:2]
        raise SinkError(
            f"cannot write {path}: OpenCV cannot encode {width}×{height} pixels as {path.suffix}; "
            "choose another kind of image, such as .png"
        )
    try:
        path.write_bytes(encoded.tobytes())
    except OSError as error:
        raise SinkError(f"cannot write {path}: {error.strerror}; choose a path that is writable") from error


def _count_frames(path: Path) -> int:
    """The frames that a video really has, counted without decoding; what its header says may be untrue."""
    video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1])
    count = 0
    while video.grab():
        count += 1
    return count


def letterbox(image_bgr: NDArray[np.uint8], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Scaled to fit into `size_hw` with its proportions kept, centred on black."""
    height, width = size_hw
    scale = min(height / image_bgr.shape[0], width / image_bgr.shape[1])
    inner_h = max(1, round(image_bgr.shape[0] * scale))
    inner_w = max(1, round(image_bgr.shape[1] * scale))
    canvas = np.zeros((height, width, 3), np.uint8)
    top, left = (height - inner_h) // 2, (width - inner_w) // 2
    canvas[top : top + inner_h, left : left + inner_w] = cv2.resize(image_bgr, (inner_w, inner_h))
    return canvas
