"""A sink that acts after a number of frames."""

import numpy as np
from numpy.typing import NDArray

from ssd_edge.runtime.results import Result
from ssd_edge.runtime.sinks.base import EndOfStream, Sink


class SinkAfter(Sink):
    """Does something from frame number `count` on: here, it wants no more."""

    needs_drawing = False

    def __init__(self, count: int) -> None:
        self.left = count

    def write(self, result: Result, drawn_bgr: NDArray[np.uint8]) -> None:
        self.left -= 1
        if self.left <= 0:
            self.act()

    def act(self) -> None:
        raise EndOfStream
