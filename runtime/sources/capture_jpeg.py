"""`JpegCaptureSource`: a camera whose JPEGs OpenCV hands on as they are."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from av.packet import Packet
from numpy.typing import NDArray

from ssd_edge.runtime.pixels import Pixels
from ssd_edge.runtime.sources.capture import CaptureSource
from ssd_edge.runtime.sources.ffmpeg import pixels_of
from ssd_edge.runtime.sources.jpeg import JpegDecoder


class JpegCaptureSource(CaptureSource):
    """An MJPG camera with CAP_PROP_CONVERT_RGB off. OpenCV's own decoder fills what a JPEG lacks with grey.

    OpenCV then gives each buffer as uint8 [1, bytes] (`retrieveFrame` in its modules/videoio/src/cap_v4l.cpp).

    Args:
        keep_damaged: give what there is of a damaged JPEG.
    """

    def __init__(self, name: str, capture: cv2.VideoCapture, *, keep_damaged: bool) -> None:
        super().__init__(name, capture)
        self._keep_damaged = keep_damaged
        self._jpegs = JpegDecoder()
        self.decoder = "mjpeg (FFmpeg)"

    def pixels_of(self, image: NDArray[np.uint8]) -> tuple[Pixels | None, bool]:
        """The planes of a JPEG, or of what there is of it."""
        if image.ndim == 3 and image.shape[2] == 3:  # OpenCV has decoded it nevertheless
            return super().pixels_of(image)
        jpeg: Packet[Any] = Packet(image.tobytes())
        picture = self._jpegs.decode(jpeg)
        if picture is not None:
            return pixels_of(picture), False
        picture = self._jpegs.rescue(jpeg) if self._keep_damaged else None
        return (None if picture is None else pixels_of(picture)), True
