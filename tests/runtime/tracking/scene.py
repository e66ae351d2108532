"""Scenes of boxes that move, and what `Understanding` makes of them."""

import importlib.util
import itertools
from collections.abc import Callable

import numpy as np
import pytest

from ssd_edge.detections import Detections
from ssd_edge.runtime.results import NO_TRACK, Result
from ssd_edge.runtime.sources.base import Frame
from ssd_edge.runtime.tracking.analytics import Understanding, UnderstandingOptions
from ssd_edge.runtime.tracking.tracker import TrackOptions

needs_trackers = pytest.mark.skipif(
    importlib.util.find_spec("trackers") is None, reason="trackers is not installed: pip install '.[track]'"
)
NAMES = ("person", "car", "traffic light")
TRACKED = UnderstandingOptions(track=TrackOptions())
Course = Callable[[float], tuple[float, float]]  # frame: the centre at that time


def frame(index: int, size_hw: tuple[int, int] = (480, 640), captured_at: float | None = None) -> Frame:
    image = np.zeros((*size_hw, 3), np.uint8)
    return Frame(image, index, index / 30 if captured_at is None else captured_at, "scene")


def found(*boxes_xyxy: list[float], labels: list[int] | None = None, score: float = 0.9) -> Detections:
    count = len(boxes_xyxy)
    boxes = np.array(boxes_xyxy, np.float32).reshape(-1, 4)
    return Detections(boxes, np.full(count, score), np.array(labels or [0] * count, np.int64))


def run(
    understanding: Understanding,
    paths: list[Course],
    frames: int,
    *,
    hidden: Callable[[int, int], bool] = lambda thing, at: False,
    scale: float = 1.0,
    size: tuple[float, float] = (40, 80),
    noise: float = 1.0,
) -> tuple[list[list[int]], list[Result]]:
    """The ids that each thing had, and the results: boxes that tremble, in an order that changes."""
    rng = np.random.default_rng(0)
    ids: list[list[int]] = [[] for _ in paths]
    results = []
    for at in range(frames):
        seen = [thing for thing in rng.permutation(len(paths)).tolist() if not hidden(thing, at)]
        boxes = []
        for thing in seen:
            x, y = paths[thing](at)
            box = np.array([x - size[0] / 2, y - size[1] / 2, x + size[0] / 2, y + size[1] / 2])
            boxes.append((scale * (box + rng.normal(0, noise, 4))).tolist())
        picture = frame(at, (round(480 * scale), round(640 * scale)))
        results.append(understanding.apply("scene", picture, found(*boxes), 1.0))
        for thing, track in zip(seen, results[-1].tracks.tolist(), strict=True):
            ids[thing].append(track)
    return ids, results


def switches(ids: list[list[int]]) -> int:
    """How often a thing got another id."""
    tracks = [[track for track in one if track != NO_TRACK] for one in ids]
    return sum(before != after for one in tracks for before, after in itertools.pairwise(one))


CROSSING: list[Course] = [
    lambda t: (60 + 5 * t, 150 + t),
    lambda t: (560 - 5 * t, 170 + t),
    lambda t: (300, 60 + 3 * t),
]
