"""Boxes and labels are drawn within the picture, at every size."""

import numpy as np
import pytest

from ssd_edge.detections import Detections
from ssd_edge.runtime.overlay import draw

NAMES = ("a class with quite a long name", "b")


def changed(size_hw: tuple[int, int], box_xyxy: list[float], label: int = 1) -> np.ndarray:
    """bool [H, W]: which pixels of a grey picture drawing one detection changed."""
    image = np.full((*size_hw, 3), 127, np.uint8)
    found = Detections(np.array([box_xyxy], np.float32), np.array([0.5]), np.array([label]))
    drawn = draw(image, found, NAMES)
    assert (image == 127).all()  # it draws on a copy
    assert drawn.shape == image.shape
    return (drawn != 127).any(axis=2)


def test_the_outline_is_where_the_box_is() -> None:
    mask = changed((400, 600), [200, 150, 500, 350])
    assert mask[350, 200:500].all()
    assert mask[150:350, 500].all()
    assert not mask[200:340, 300:490].any()  # the inside is left as it was
    assert not mask[:, :190].any()


@pytest.mark.parametrize("corner", ["top left", "top right", "bottom left", "bottom right"])
def test_labels_stay_in_the_picture(corner: str) -> None:
    x0 = 0 if "left" in corner else 590
    y0 = 0 if "top" in corner else 390
    mask = changed((400, 600), [x0, y0, x0 + 9, y0 + 9])
    rows, columns = np.nonzero(mask)
    assert np.ptp(rows) > 15  # a whole line of text, wherever the box is
    assert np.ptp(columns) > 35


def test_a_label_wider_than_the_picture_is_shrunk() -> None:
    mask = changed((60, 100), [10, 40, 50, 55], label=0)
    assert mask[:35].any()
    assert not mask[:35].all()


@pytest.mark.parametrize(("size_hw", "width"), [((240, 320), 1), ((480, 640), 2), ((2160, 3840), 9)])
def test_lines_grow_with_the_picture(size_hw: tuple[int, int], width: int) -> None:
    height, columns = size_hw
    mask = changed(size_hw, [columns * 0.6, height * 0.4, columns * 0.9, height * 0.8])
    line = np.count_nonzero(mask[round(height * 0.6), columns * 3 // 4 :])
    assert width <= line <= width + 2  # as OpenCV rounds


def test_nothing_to_draw_and_one_pixel() -> None:
    image = np.full((1, 1, 3), 127, np.uint8)
    assert (draw(image, Detections.empty(), NAMES) == image).all()
    assert changed((1, 1), [0, 0, 1, 1]).shape == (1, 1)
