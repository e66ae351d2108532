"""`Gate`: a sink that writes when a test lets it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_edge.runtime.results import Result
from ssd_edge.runtime.sinks.base import Sink


class Gate(Sink):
    """Writes down what comes; before that it waits until it is open. `act` may do more."""

    needs_drawing = True

    def __init__(self, act: Callable[[int], None] = lambda index: None) -> None:
        self.open, self.waiting, self.closed = threading.Event(), threading.Event(), threading.Event()
        self.told: list[Any] = []
        self._act = act

    def write(self, result: Result, drawn_bgr: NDArray[np.uint8]) -> None:
        self.waiting.set()
        self.open.wait(20)
        self._act(result.frame.index)
        self.told.append((result.frame.index, int(drawn_bgr.max())))

    def status(self, source: str, status: str, detail: str) -> None:
        self.told.append((source, status, detail))

    def close(self) -> None:
        self.closed.set()
