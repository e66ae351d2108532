"""Detections that have to be equal bit by bit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ssd_edge.detections import Detections


def assert_equal(found: Detections, wanted: Detections) -> None:
    assert found.labels.tolist() == wanted.labels.tolist()
    assert np.array_equal(found.scores, wanted.scores)
    assert np.array_equal(found.boxes_xyxy, wanted.boxes_xyxy)


def assert_all_equal(found: Sequence[Detections], wanted: Sequence[Detections]) -> None:
    """Those of several images."""
    assert len(found) == len(wanted)
    for image_found, image_wanted in zip(found, wanted, strict=True):
        assert_equal(image_found, image_wanted)
