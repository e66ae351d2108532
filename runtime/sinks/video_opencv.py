"""An annotated video file, written by OpenCV."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ssd_edge.errors import SinkError
from ssd_edge.images import quiet_opencv
from ssd_edge.runtime.results import Result
from ssd_edge.runtime.sinks.base import Sink
from ssd_edge.runtime.sinks.output_paths import check_writable
from ssd_edge.runtime.sources.base import SourceInfo

logger = logging.getLogger(__name__)

VIDEO_CODES = {
    ".mp4": "mp4v",
    ".mov": "mp4v",
    ".mkv": "mp4v",
    ".avi": "XVID",
}  # every FFmpeg has MPEG-4 part 2
RESERVE_BYTES = 16 * 2**20  # left free, so that the index of an .mp4, without which it is lost, still fits
LIVE_FPS = 25.0  # for a live source that does not tell its own


class VideoSink(Sink):
    """An annotated video. The first frame fixes its size; others are letterboxed.

    Its frame rate is constant, so frames are repeated or left out according to their times (`Frame.time_s`). A Matroska
    file (.mkv) stays readable even after a power cut; an .mp4 needs `close`.

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
        self._began_s = 0.0
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
            self._began_s = result.frame.time_s
        if (height, width) != self._size_hw:
            if not self._letterboxed:
                logger.warning("%s: the frame size has changed; it is scaled to the first one's", self._path)
            self._letterboxed = True
            drawn_bgr = letterbox(drawn_bgr, self._size_hw)
        due = round((result.frame.time_s - self._began_s) * self._fps) + 1
        while self._written < due:
            with quiet_opencv():  # it tells a failure to stderr alone; `close` counts
                self._writer.write(drawn_bgr)
            self._written += 1

    def _open(self, height: int, width: int) -> cv2.VideoWriter:
        code = cv2.VideoWriter.fourcc(*VIDEO_CODES[self._path.suffix.lower()])
        with quiet_opencv():
            writer = cv2.VideoWriter(str(self._path.absolute()), cv2.CAP_FFMPEG, code, self._fps, (width, height))
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


def _count_frames(path: Path) -> int:
    """The frames that a video really has, counted without decoding; what its header says may be untrue."""
    video = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1])
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
