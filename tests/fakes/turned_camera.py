"""`TurnedCamera`: a source whose frames change their size."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from ssd_edge.runtime.sources.base import Frame, Source


class TurnedCamera(Source):
    """Three frames upright, then three across; each has a red cell, the second row's second of 4×4."""

    name = "turned camera"

    def frames(self) -> Iterator[Frame]:
        for index in range(6):
            height, width = (64, 48) if index < 3 else (48, 64)
            image = np.zeros((height, width, 3), np.uint8)
            image[height // 4 : height // 2, width // 4 : width // 2] = (0, 0, 255)
            yield Frame(image, index, time.monotonic(), self.name)

    def close(self) -> None:
        pass
