"""`OracleDetector`: a detector that knows the answers."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

from ssd_edge.detections import Detections


class OracleDetector:
    """Gives the answers in their order, one per frame.

    Attributes:
        calls: the number of frames of each call.
    """

    def __init__(self, class_names: tuple[str, ...], answers: Sequence[Detections]) -> None:
        self.card = SimpleNamespace(class_names=class_names)
        self.calls: list[int] = []
        self._answers = list(answers)

    def __call__(self, frames: list[NDArray[np.uint8]]) -> list[Detections]:
        self.calls.append(len(frames))
        return [self._answers.pop(0) for _ in frames]
