"""Batches overlap in the detector, and none is held back for frames that are not there."""

from collections import deque
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest

from ssd_edge.detections import Detections
from ssd_edge.runtime.stream.inference import Inference
from ssd_edge.runtime.stream.stop import Stop


class Recorded:
    """Stands for a detector with two slots; writes down the order of what is asked of it."""

    slots, batch = 2, 1

    def __init__(self) -> None:
        self.order: list[str] = []
        self.count = 0

    def submit(self, frames: list[str]) -> None:
        self.order.append("+" + "".join(frames))

    def wait(self, timeout_s: float = 0.0) -> bool:
        return True

    def collect(self) -> list[Detections]:
        self.count += 1
        self.order.append(f"-{self.count}")
        return []


class Arrivals:
    """Stands for a batcher: gives these batches, and nothing where there is a " " unless it is waited for."""

    def __init__(self, batches: str) -> None:
        self.batches = list(batches)

    def wake(self) -> None:
        pass

    def take(self, most: int, *, until: Callable[[], bool]) -> list[Any]:
        while self.batches:
            name = self.batches.pop(0)
            if name != " ":
                return [(None, Mock(image_bgr=name))]
            if until():
                break
        return []


@pytest.mark.parametrize(
    ("arrivals", "order"),
    [
        ("abc", "+a +b -1 +c -2 -3"),  # two under way
        ("a b c", "+a -1 +b -2 +c -3"),  # slower than the detector: none is held back for the next
        ("a bc d", "+a -1 +b +c -2 -3 +d -4"),
        ("", ""),
    ],
)
def test_batches_overlap_where_the_next_is_there(arrivals: str, order: str) -> None:
    detector: Any = Recorded()
    batcher: Any = Arrivals(arrivals)
    for _ in Inference(detector, batcher, deque(), Stop()).batches():
        pass
    assert detector.order == order.split()
