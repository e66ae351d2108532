"""Video files as a source; `VideoSource`, for whatever OpenCV opens."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ssd_edge.errors import SourceError
from ssd_edge.images import quiet_opencv, to_bgr8
from ssd_edge.runtime.sources.base import Frame, Source

logger = logging.getLogger(__name__)

MAX_CORRUPT = 100  # frames in a row; more than a burst of lost packets


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


def open_video(path: Path) -> Source:
    with quiet_opencv():
        capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise SourceError(
            f"{path} is no video that OpenCV can read; an mp4 that was cut off while it was written "
            "is lost, others can be converted with: ffmpeg -i IN OUT.mp4"
        )
    return VideoSource(str(path), capture, live=False, paths=(path,))
