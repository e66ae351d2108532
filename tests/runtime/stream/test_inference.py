"""Batches overlap in the detector, and none is held back for frames that are not there."""

from collections import deque
from typing import Any

import pytest

from ssd_edge.runtime.stream.inference import Inference
from ssd_edge.runtime.stream.stop import Stop
from tests.fakes.recorded_detector import RecordedDetector
from tests.fakes.scripted_batches import ScriptedBatches


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
    detector: Any = RecordedDetector()
    batcher: Any = ScriptedBatches(arrivals)
    for _ in Inference(detector, batcher, deque(), Stop()).batches():
        pass
    assert detector.order == order.split()
