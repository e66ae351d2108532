"""`CaptureSource`: the frames of a camera that OpenCV has opened."""

from __future__ import annotations

import time
from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from ssd_edge.errors import SourceError
from ssd_edge.images import quiet_opencv, to_bgr8
from ssd_edge.runtime.pixels import Pixels
from ssd_edge.runtime.sources.base import MAX_DAMAGED, Frame, Source


class CaptureSource(Source):
    """A camera, through `cv2.VideoCapture`. OpenCV gives every frame in the size of the first."""

    live = True

    def __init__(self, name: str, capture: cv2.VideoCapture) -> None:
        self.name = name
        self._capture = capture
        fps = capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 0 < fps <= 1000 else None
        self.decoder = "OpenCV"

    def frames(self) -> Iterator[Frame]:
        read = index = lost_in_a_row = 0
        while (image := self._read()) is not None:
            pixels, damaged = self.pixels_of(image)
            self.corrupt += damaged
            lost_in_a_row = 0 if pixels is not None else lost_in_a_row + 1
            if pixels is not None:
                yield Frame(pixels, index, time.monotonic(), self.name, damaged=damaged)
                read += 1
            elif lost_in_a_row == MAX_DAMAGED:
                raise SourceError(f"{self.name}: {MAX_DAMAGED} frames in a row are damaged; check the cable")
            index += 1
        if read == 0:
            raise SourceError(f"{self.name} was opened but gives no frame; is it in use, or damaged?")
        raise SourceError(f"{self.name} stopped after {read} frames; check the device or the connection")

    def pixels_of(self, image: NDArray[np.uint8]) -> tuple[Pixels | None, bool]:
        """The picture of what OpenCV gives, None where there is none; and whether it is damaged."""
        return (to_bgr8(image), False) if image.size else (None, True)

    def _read(self) -> NDArray[np.uint8] | None:
        """The next frame, empty where it is there but cannot be decoded; None at the end."""
        with quiet_opencv():
            if not self._capture.grab():
                return None
            ok, image = self._capture.retrieve()
        return image if ok and image is not None else np.zeros((0, 0, 3), np.uint8)

    def close(self) -> None:
        self._capture.release()
