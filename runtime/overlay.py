"""Drawing detections on a frame, readable at any size."""

from __future__ import annotations

import colorsys
import math
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from ssd_edge.detections import Detections

FONT = cv2.FONT_HERSHEY_SIMPLEX
Colour = tuple[int, int, int]  # BGR


def draw(image_bgr: NDArray[np.uint8], detections: Detections, class_names: tuple[str, ...]) -> NDArray[np.uint8]:
    """A copy of the image with boxes, class names and scores, the best detection on top.

    Line width and font grow with the image; labels stay within it.

    Args:
        image_bgr: uint8 [H, W, 3].
    """
    canvas = image_bgr.copy()
    line = _line_width(canvas)
    best_last = list(reversed(list(detections)))
    for box_xyxy, _, label in best_last:
        x0, y0, x1, y1 = (round(float(value)) for value in box_xyxy)
        cv2.rectangle(canvas, (x0, y0), (x1, y1), _colour(label), line)
    for box_xyxy, score, label in best_last:  # after all boxes, so that no line runs through a label
        corner_xy = round(float(box_xyxy[0])), round(float(box_xyxy[1]))
        _draw_label(canvas, f"{class_names[label]} {score:.2f}", corner_xy, _colour(label), line)
    return canvas


def _draw_label(canvas: NDArray[np.uint8], text: str, corner_xy: tuple[int, int], colour: Colour, line: int) -> None:
    """A filled label above the corner, or below it where there is no room; moved and shrunk to fit."""
    height, width = canvas.shape[:2]
    scale = _font_scale(canvas)
    thickness = max(1, round(line * 0.6))
    (text_width, text_height), descent = cv2.getTextSize(text, FONT, scale, thickness)
    margin = line
    if text_width + 2 * margin > width:
        scale *= max(1, width - 2 * margin) / text_width
        (text_width, text_height), descent = cv2.getTextSize(text, FONT, scale, thickness)
    label_width, label_height = text_width + 2 * margin, text_height + descent + 2 * margin
    left = min(max(corner_xy[0] - line // 2, 0), max(width - label_width, 0))
    top = corner_xy[1] - label_height
    if top < 0:
        top = min(max(corner_xy[1], 0), max(height - label_height, 0))
    cv2.rectangle(canvas, (left, top), (left + label_width, top + label_height), colour, cv2.FILLED)
    baseline = (left + margin, top + margin + text_height)
    cv2.putText(canvas, text, baseline, FONT, scale, _ink(colour), thickness, cv2.LINE_AA)


def _line_width(image: NDArray[np.uint8]) -> int:
    """1 pixel at 320 px, 2 at VGA, 4 at full HD, 9 at 4K."""
    return max(1, round(_diagonal(image) / 500))


def _font_scale(image: NDArray[np.uint8]) -> float:
    """Letters about 1/50 of the diagonal high, but no smaller than can be read."""
    return max(0.4, _diagonal(image) / 1500)


def _diagonal(image: NDArray[np.uint8]) -> float:
    return math.hypot(*image.shape[:2])


@lru_cache(maxsize=1024)
def _colour(label: int) -> Colour:
    """Steps of the golden ratio around the colour wheel: neighbouring labels differ most."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.85, 1.0)
    return round(255 * blue), round(255 * green), round(255 * red)


def _ink(background: Colour) -> Colour:
    """Black or white, whichever stands out (luma of ITU-R BT.601)."""
    blue, green, red = background
    return (0, 0, 0) if 0.114 * blue + 0.587 * green + 0.299 * red > 128 else (255, 255, 255)
