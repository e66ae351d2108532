"""Errors are drawn where they are, each in its colour."""

from pathlib import Path

import cv2
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ssd_edge.data.dataset import DetectionDataset, ImageRecord, box_areas
from ssd_edge.detections import Detections
from ssd_edge.evaluation.plot_images import FALSE, FOUND, MISSED, Mark, Tile, draw_image, plot_worst_images
from ssd_edge.evaluation.worst_images import worst_images
from tests.ssd_edge.evaluation.scene import NAMES, matches_of


def test_boxes_are_where_their_image_is_on_the_sheet() -> None:
    tile = Tile(left=100, top=50, width=200, height=100, scale=2)
    assert tile.box(np.array([10.0, 5, 60, 20])) == (120, 60, 220, 90)
    assert tile.box(np.array([-5.0, -5, 500, 500])) == (100, 50, 300, 150)  # within the image
    axes = Figure().add_axes((0, 0, 1, 1), xlim=(0, 1000), ylim=(1000, 0))
    # A tile is 440 wide and 330 high. Twice as large, an image of 220 × 100 has 65 pixels above and below it.
    assert draw_image(axes, np.zeros((100, 220, 3), np.uint8), 14, 102) == Tile(14, 167, 440, 200, 2)
    assert tuple(axes.images[0].get_extent()) == (14, 454, 367, 167)
    # 0.75 times as large, an image of 220 × 440 has 137 pixels on its left.
    assert draw_image(axes, np.zeros((440, 220, 3), np.uint8), 14, 102) == Tile(151, 102, 165, 330, 0.75)


def has_colour(image_bgr: NDArray[np.uint8], mark: Mark) -> NDArray[np.bool_]:
    """Bool [height, width]: the pixels of about that mark's colour."""
    colour_bgr = 255 * np.array(to_rgb(mark.colour))[::-1]
    near: NDArray[np.bool_] = np.abs(image_bgr - colour_bgr).max(axis=2) < 12
    return near


def test_errors_are_drawn_in_their_colours_on_their_images(tmp_path: Path) -> None:
    """Image 1 without an error, image 2 with one box missed, image 3 with one false detection."""
    box = [10, 20, 40, 30]
    records = []
    for number, boxes in enumerate(([box], [box], []), start=1):
        path = tmp_path / f"{number}.png"
        cv2.imwrite(str(path), np.full((60, 80, 3), 90, np.uint8))
        boxes_xyxy = np.array(boxes, np.float32).reshape(-1, 4)
        none = np.zeros(len(boxes))
        records.append(
            ImageRecord(path, number, (60, 80), boxes_xyxy, none.astype(int), box_areas(boxes_xyxy), none.astype(bool))
        )
    dataset = DetectionDataset("errors", NAMES, (0, 1), tuple(records))
    seen = Detections(np.array([box]), np.array([0.9]), np.array([0]))
    matches = matches_of([seen, Detections.empty(), seen], dataset)
    plot_worst_images(tmp_path / "sheet.png", worst_images(matches, score=0.5), matches, dataset, score=0.5)
    whole = cv2.imread(str(tmp_path / "sheet.png"))
    assert whole is not None
    sheet = whole[12:, 12:].astype(np.uint8)  # without the margin of 0.12 inches
    # Two tiles of 440 × 330 from (14, 102) and (468, 102): the images 5.5 times as large, box and all.
    tiles = [sheet[102 : 102 + 330, left : left + 440] for left in (14, 468)]
    for tile, mark, other in zip(tiles, (MISSED, FALSE), (FALSE, MISSED), strict=True):
        assert not has_colour(tile, other).any()
        assert not has_colour(tile, FOUND).any()
        drawn = has_colour(tile, mark)
        x0, y0, x1, y1 = 55, 110, 220, 165
        left, top, right, bottom = (slice(edge - 2, edge + 3) for edge in (x0, y0, x1, y1))
        for edge in (drawn[y0:y1, left].T, drawn[y0:y1, right].T, drawn[top, x0:x1], drawn[bottom, x0:x1]):
            assert edge.any(axis=0).mean() > 0.5  # a dashed line too
        assert not drawn[y0 + 4 : y1 - 3, x0 + 4 : x1 - 3].any()
        drawn[y0 - 30 : y1 + 4, x0 - 3 : x1 + 4] = False  # the box, and its label above it
        assert not drawn.any()
