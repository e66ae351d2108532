"""What tests of sinks share: frames, results, and feeding a sink with them."""

from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ssd_edge.detections import Detections
from ssd_edge.runtime.results import Result
from ssd_edge.runtime.sinks.base import Sink
from ssd_edge.runtime.sources.base import Frame

FOUND = Detections(np.array([[1, 2.5, 30, 40.123]], np.float32), np.array([0.75], np.float32), np.array([1]))


def frame(
    index: int = 0, size_hw: tuple[int, int] = (48, 64), at: float = 0.0, name: str = "any", grey: int = 200
) -> Frame:
    """A frame of that time; without one, of a source of 10 FPS."""
    return Frame(np.full((*size_hw, 3), grey, np.uint8), index, at, name, at_s=at or index / 10)


def result(frame: Frame, source: str = "any") -> Result:
    return Result(source, frame, FOUND, ("a", "ß"), age_ms=12.34)


def feed(sink: Sink, *frames: Frame) -> None:
    with closing(sink):
        for item in frames:
            sink.write(result(item), item.image_bgr)


def read_image(path: Path, flags: int = cv2.IMREAD_COLOR) -> NDArray[np.uint8]:
    """uint8 [H, W, 3], or [H, W] of a grey image where the flags leave it as it is."""
    image = cv2.imread(str(path), flags)
    assert image is not None
    return np.asarray(image, np.uint8)
