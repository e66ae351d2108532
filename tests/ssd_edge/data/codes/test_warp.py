"""Where points and pixels of a print come to lie."""

import cv2
import numpy as np
import pytest

from ssd_edge.data.codes.warp import Pose, bend, homography, paste, project


def test_homography_without_tilt_is_a_similarity() -> None:
    pose = Pose(centre_xy=(50.0, 60.0), scale=2.0, angle=np.pi / 2)
    points = project(np.array([[10.0, 20.0], [11.0, 20.0]]), homography(pose, (10.0, 20.0), (30, 30)))
    assert points == pytest.approx(np.array([[50.0, 60.0], [50.0, 62.0]]))


def test_paste_puts_pixels_where_the_homography_says() -> None:
    frame = np.zeros((20, 20, 3), np.uint8)
    bgra = np.full((4, 6, 4), 255, np.uint8)
    matrix = np.array([[1, 0, 5], [0, 1, 7], [0, 0, 1.0]])
    paste(frame, bgra, matrix, module_px=10.0)
    ys, xs = np.nonzero(frame[..., 0] == 255)
    assert (xs.min(), xs.max(), ys.min(), ys.max()) == (5, 10, 7, 10)
    assert frame.sum() == 4 * 6 * 3 * 255


def test_bend_moves_points_with_the_picture() -> None:
    bgra = np.zeros((100, 200, 4), np.uint8)
    cv2.circle(bgra, (150, 50), 3, (255, 255, 255, 255), -1)
    bent, points = bend(bgra, np.array([[150.5, 50.5]]), half_angle=1.0, bow=0.1)
    ys, xs = np.nonzero(bent[..., 0] > 128)
    assert points[0] == pytest.approx([xs.mean() + 0.5, ys.mean() + 0.5], abs=0.6)
    assert abs(points[0, 0] - 150.5) > 3  # it did bend
