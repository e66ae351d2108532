"""Boxes, labels, zones and lines are drawn within the picture, at every size."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ssd_edge.detections import Detections
from ssd_edge.runtime.overlay import BUSY, LIGHT, draw, draw_result
from ssd_edge.runtime.results import Result
from ssd_edge.runtime.sources.base import Frame
from ssd_edge.runtime.tracking.zones import Line, Zone

NAMES = ("a class with quite a long name", "b")
GREY = 127


def changed(size_hw: tuple[int, int], box_xyxy: list[float], label: int = 1) -> NDArray[np.bool_]:
    """bool [H, W]: which pixels of a grey picture drawing one detection changed."""
    image = np.full((*size_hw, 3), GREY, np.uint8)
    found = Detections(np.array([box_xyxy], np.float32), np.array([0.5], np.float32), np.array([label]))
    drawn = draw(image, found, NAMES)
    assert (image == GREY).all()  # it draws on a copy
    assert drawn.shape == image.shape
    return np.asarray((drawn != GREY).any(axis=2))


def result(size_hw: tuple[int, int], boxes_xyxy: list[list[float]], **values: Any) -> Result:
    """Of a grey picture, every box in a class of its own."""
    count = len(boxes_xyxy)
    found = Detections(
        np.array(boxes_xyxy, np.float32).reshape(-1, 4),
        np.linspace(0.9, 0.5, count, dtype=np.float32),
        np.arange(count),
    )
    frame = Frame(np.full((*size_hw, 3), GREY, np.uint8), 0, 0.0, "grey")
    return Result("grey", frame, found, tuple(f"class {i}" for i in range(count)), 1.0, **values)


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
    assert np.ptp(rows) > 12  # a whole line of text, wherever the box is
    assert np.ptp(columns) > 35


def test_a_label_wider_than_the_picture_is_shrunk() -> None:
    mask = changed((60, 100), [10, 40, 50, 55], label=0)
    assert mask[:35].any()
    assert not mask[:35].all()


@pytest.mark.parametrize(("size_hw", "width"), [((240, 320), 1), ((720, 1280), 2), ((2160, 3840), 6)])
def test_lines_grow_with_the_picture(size_hw: tuple[int, int], width: int) -> None:
    height, columns = size_hw
    mask = changed(size_hw, [columns * 0.6, height * 0.4, columns * 0.9, height * 0.8])
    line = np.count_nonzero(mask[round(height * 0.6), columns * 3 // 4 :])
    assert width <= line <= width + 2  # as OpenCV rounds


def test_nothing_to_draw_and_one_pixel() -> None:
    image = np.full((1, 1, 3), GREY, np.uint8)
    assert (draw(image, Detections.empty(), NAMES) == image).all()
    assert changed((1, 1), [0, 0, 1, 1]).shape == (1, 1)
    assert draw_result(result((1, 1), [[0, 0, 1, 1]]), [Zone("z", ((0, 0), (1, 0), (1, 1)))]).shape == (1, 1, 3)


def test_labels_of_boxes_in_one_place_do_not_cover_each_other() -> None:
    boxes: list[list[float]] = [[300 + i, 200 + i, 309 + i, 209 + i] for i in range(5)]
    crowd = result((400, 600), boxes)
    together = draw_result(crowd)
    found = crowd.detections
    for i in range(len(boxes)):
        one = Detections(found.boxes_xyxy[i : i + 1], found.scores[i : i + 1], found.labels[i : i + 1])
        drawn = draw(crowd.frame.image_bgr, one, crowd.class_names)
        colours, counts = np.unique(drawn[drawn.any(axis=2) & (drawn != GREY).any(axis=2)], axis=0, return_counts=True)
        ground = colours[counts.argmax()]  # of the label
        assert (together == ground).all(axis=2).sum() > 0.9 * counts.max()  # the box itself may be covered


def test_ids_are_drawn_and_a_small_picture_leaves_the_score_out() -> None:
    def label_width(size_hw: tuple[int, int], track: int) -> int:
        drawn = draw_result(result(size_hw, [[9, 30, 12, 33]], tracks=np.array([track])))
        return int(np.ptp(np.nonzero((drawn != GREY).any(axis=2))[1]))

    assert label_width((720, 1280), 7) > label_width((720, 1280), -1)  # "class 0 #7 0.90", "class 0 0.90"
    assert label_width((240, 240), 7) < label_width((240, 240), -1)  # "class 0 #7", "class 0 0.90"


@pytest.mark.parametrize("size_hw", [(240, 320), (2160, 3840)])
def test_zones_and_lines(size_hw: tuple[int, int]) -> None:
    height, width = size_hw
    zone = Zone("yard", ((0.1, 0.2), (0.4, 0.2), (0.4, 0.9), (0.1, 0.9)))
    line = Line("door", ((0.75, 0.4), (0.75, 0.9)))  # downwards: who crosses it to the left goes in
    quiet = draw_result(
        result(size_hw, [], counts={"yard": {"inside": 0}, "door": {"in": 3, "out": 1}}), [zone], [line]
    )
    busy = draw_result(result(size_hw, [], counts={"yard": {"inside": 2}}), [zone], [line])
    edge = round(0.7 * height), round(0.4 * width)
    assert near(quiet[edge], LIGHT)
    assert near(busy[edge], BUSY)
    assert (quiet[round(0.6 * height), round(0.2 * width)] == GREY).all()  # the zone itself stays clear
    row = (quiet[round(0.65 * height)] != GREY).any(axis=1)  # through the middle of the line, where the arrow is
    left, right = row[width // 2 : round(0.75 * width)].sum(), row[round(0.75 * width) :].sum()
    assert left > 3 * right
    texts = np.s_[round(0.25 * height) : round(0.39 * height), round(0.5 * width) :]
    assert (quiet[texts] != busy[texts]).any()  # in 3 out 1, in 0 out 0


def near(pixel: NDArray[np.uint8], colour: tuple[int, int, int]) -> bool:
    """A line's edges are smooth: at one pixel wide it has not quite its colour."""
    return bool(np.abs(pixel.astype(int) - colour).max() < 40)


def test_a_zone_over_the_border_is_cut_off() -> None:
    drawn = draw_result(result((100, 200), []), [Zone("z", ((150, 50), (500, 50), (500, 400)))])
    assert drawn.shape == (100, 200, 3)
    assert near(drawn[50, 190], LIGHT)
