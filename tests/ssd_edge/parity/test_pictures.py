"""The two pictures of an image: what is marked, and how large they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from ssd_edge.detections import Detections
from ssd_edge.parity.compare_detections import pair_detections
from ssd_edge.parity.pictures import side_by_side

if TYPE_CHECKING:
    pass


def test_differences_are_marked_in_white() -> None:
    grey = np.full((480, 640, 3), 90, np.uint8)
    box = np.array([[100, 100, 200, 200]], np.float32)
    one = Detections(box, np.array([0.9], np.float32), np.array([0], np.int64))
    agreed = pair_detections(one, one, score=0.4, edge=0)
    for picture in side_by_side(grey, agreed, ("x",)):
        assert np.array_equal(picture[250:260], grey[250:260])
        assert not (picture[150, 90:99] == 255).all(axis=1).any()
    missed, nothing = side_by_side(grey, pair_detections(one, Detections.empty(), score=0.4, edge=0), ("x",))
    assert (missed[150, 90:99] == 255).all(axis=1).any()  # the frame, left of the box
    assert np.array_equal(nothing, grey)


@pytest.mark.parametrize(("width", "expected"), [(100, 480), (640, 640), (3200, 800)])
def test_pictures_have_a_useful_size(width: int, expected: int) -> None:
    none = Detections.empty()
    image = np.zeros((width // 2, width, 3), np.uint8)
    reference, model = side_by_side(image, pair_detections(none, none, score=0.4, edge=0), ("x",))
    assert reference.shape == model.shape == (expected // 2, expected, 3)
