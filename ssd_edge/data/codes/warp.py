"""Flat print into a scene: poses, cylindrical bend, and pasting with antialiasing.

Coordinates are continuous: pixel i covers [i, i + 1), so its centre lies at i + 0.5.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ssd_edge.data.codes.symbols import Image

OUTLINE_POINTS = 9  # a side of the symbol: its edges are curved after a bend
NEAREST_DEPTH = 0.45  # of the focal length: print that would come nearer to the camera is tilted less
SUPERSAMPLE_BELOW_PX = 4.0  # modules smaller than this are drawn at twice the resolution
_CENTRE = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1.0]])  # continuous coordinates to OpenCV's

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Pose:
    """Where a print lies.

    Attributes:
        centre_xy: its symbol's centre in the frame, in pixels.
        scale: frame pixels a print pixel, at that centre.
        angle, tilt_x, tilt_y: turn in the picture plane and the two tilts out of it, in radians.
        focal: the camera's focal length in pixels.
    """

    centre_xy: tuple[float, float]
    scale: float
    angle: float
    tilt_x: float = 0.0
    tilt_y: float = 0.0
    focal: float = 1000.0


def homography(pose: Pose, origin_xy: tuple[float, float], size_wh: tuple[int, int]) -> Points:
    """Print pixels to frame pixels, float64 [3, 3]; `origin_xy` is the symbol's centre in the print."""
    tilt = 1.0
    while True:
        matrix = _projection(pose, origin_xy, tilt)
        corners = np.array([[0, 0, 1], [size_wh[0], 0, 1], [0, size_wh[1], 1], [size_wh[0], size_wh[1], 1]])
        if (corners @ matrix[2]).min() > NEAREST_DEPTH * pose.focal:
            return matrix / matrix[2, 2]
        tilt *= 0.7


def _projection(pose: Pose, origin_xy: tuple[float, float], tilt: float) -> Points:
    sa, ca = np.sin(pose.angle), np.cos(pose.angle)
    sx, cx = np.sin(pose.tilt_x * tilt), np.cos(pose.tilt_x * tilt)
    sy, cy = np.sin(pose.tilt_y * tilt), np.cos(pose.tilt_y * tilt)
    spin = np.array([[ca, -sa, 0], [sa, ca, 0], [0, 0, 1]])
    rotation = (
        np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]]) @ np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]]) @ spin
    )
    camera = np.array([[pose.focal, 0, pose.centre_xy[0]], [0, pose.focal, pose.centre_xy[1]], [0, 0, 1]])
    plane = np.column_stack([rotation[:, 0] * pose.scale, rotation[:, 1] * pose.scale, [0, 0, pose.focal]])
    shift = np.array([[1, 0, -origin_xy[0]], [0, 1, -origin_xy[1]], [0, 0, 1.0]])
    return camera @ plane @ shift


def project(points_xy: Points, matrix: Points) -> Points:
    """Apply a homography to points [n, 2]."""
    homogeneous = np.column_stack([points_xy, np.ones(len(points_xy))]) @ matrix.T
    return homogeneous[:, :2] / homogeneous[:, 2:]


def outline(box: tuple[int, int, int, int]) -> Points:
    """Points along the border of a box x0, y0, x1, y1, clockwise from its upper left corner: [n, 2]."""
    x0, y0, x1, y1 = box
    t = np.linspace(0, 1, OUTLINE_POINTS)[:-1, None]
    corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float64)
    return np.concatenate([a + (b - a) * t for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True)])


def bend(bgra: Image, points_xy: Points, *, half_angle: float, bow: float) -> tuple[Image, Points]:
    """Wrap a print around an upright cylinder of which it covers ± `half_angle` radians, seen from the front.

    `bow` lowers the middle by that share of the print's width, as seen from above.
    Gives the bent print and points.
    """
    height, width = bgra.shape[:2]
    drop = bow * width
    sine, flat_edge = np.sin(half_angle), np.cos(half_angle)

    def fall(phi: Points) -> Points:
        return drop * (np.cos(phi) - flat_edge) / (1 - flat_edge)

    tall = height + int(np.ceil(abs(drop)))
    lift = max(0.0, -drop)
    across = (np.arange(width) + 0.5) / width * 2 - 1
    phi = np.arcsin(across * sine)
    map_x = np.broadcast_to(((phi / half_angle + 1) * width / 2 - 0.5)[None], (tall, width)).astype(np.float32)
    map_y = (np.arange(tall)[:, None] - lift - fall(phi)[None]).astype(np.float32)
    bent = cv2.remap(bgra, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    point_phi = (points_xy[:, 0] / width * 2 - 1) * half_angle
    x = (np.sin(point_phi) / sine + 1) * width / 2
    y = points_xy[:, 1] + lift + fall(point_phi)
    return bent, np.column_stack([x, y])


def paste(frame_bgr: Image, bgra: Image, matrix: Points, *, module_px: float) -> None:
    """Draw a premultiplied print [h, w, 4] into the frame through `matrix`, in place.

    `module_px` is the size of the print's smallest detail in the frame: fine print is drawn supersampled.
    """
    frame_h, frame_w = frame_bgr.shape[:2]
    print_h, print_w = bgra.shape[:2]
    corners = project(np.array([[0, 0], [print_w, 0], [print_w, print_h], [0, print_h]], np.float64), matrix)
    x0, y0 = np.clip(np.floor(corners.min(0)).astype(int) - 1, 0, (frame_w, frame_h))
    x1, y1 = np.clip(np.ceil(corners.max(0)).astype(int) + 1, 0, (frame_w, frame_h))
    if x0 >= x1 or y0 >= y1:
        return
    factor = 2 if module_px < SUPERSAMPLE_BELOW_PX else 1
    to_region = np.array([[factor, 0, -factor * x0], [0, factor, -factor * y0], [0, 0, 1.0]])
    to_opencv = _CENTRE @ to_region @ matrix @ np.linalg.inv(_CENTRE)
    size = (int(x1 - x0) * factor, int(y1 - y0) * factor)
    warped = cv2.warpPerspective(bgra, to_opencv, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    if factor > 1:
        warped = cv2.resize(warped, (size[0] // factor, size[1] // factor), interpolation=cv2.INTER_AREA)
    region = frame_bgr[y0:y1, x0:x1]
    see_through = cv2.cvtColor(cv2.bitwise_not(cv2.extractChannel(warped, 3)), cv2.COLOR_GRAY2BGR)
    behind = cv2.multiply(region, see_through, scale=1 / 255)
    region[:] = cv2.add(behind, cv2.cvtColor(warped, cv2.COLOR_BGRA2BGR))
