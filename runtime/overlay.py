"""Drawing what was found on a frame, readable at any size."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from ssd_edge.detections import Detections
from ssd_edge.runtime.pixels import to_bgr
from ssd_edge.runtime.results import NO_TRACK, Result
from ssd_edge.runtime.tracking.geometry import in_pixels
from ssd_edge.runtime.tracking.zones import Line, Zone

FONT = cv2.FONT_HERSHEY_SIMPLEX
Colour = tuple[int, int, int]  # BGR
Box = tuple[int, int, int, int]  # x0 y0 x1 y1

DARK, LIGHT, BUSY = (40, 40, 40), (255, 255, 255), (0, 190, 255)  # of zones and lines; busy: something is inside


def draw(image_bgr: NDArray[np.uint8], detections: Detections, class_names: tuple[str, ...]) -> NDArray[np.uint8]:
    """A copy of the image with boxes, class names and scores, the best detection on top.

    Line width and font grow with the image; labels stay within it, and off each other where there is room.

    Args:
        image_bgr: uint8 [H, W, 3].
    """
    canvas = image_bgr.copy()
    tracks = np.full(len(detections), NO_TRACK, np.int64)
    _draw_detections(canvas, detections, class_names, tracks, _Labels(canvas))
    return canvas


def draw_result(result: Result, zones: Sequence[Zone] = (), lines: Sequence[Line] = ()) -> NDArray[np.uint8]:
    """A copy of the frame, uint8 [H, W, 3], with what `draw` draws, the ids of tracks, and zones and lines with counts.

    A zone is brighter while something is in it; the arrow of a line shows which way is in.
    """
    pixels = result.frame.pixels
    canvas = pixels.copy() if isinstance(pixels, np.ndarray) else to_bgr(pixels)
    labels = _Labels(canvas)
    for zone in zones:
        _draw_zone(canvas, zone, result.counts.get(zone.name, {}).get("inside", 0), labels)
    for line in lines:
        _draw_line(canvas, line, result.counts.get(line.name, {}), labels)
    _draw_detections(canvas, result.detections, result.class_names, result.tracks, labels)
    return canvas


def _draw_detections(
    canvas: NDArray[np.uint8],
    detections: Detections,
    class_names: tuple[str, ...],
    tracks: NDArray[np.int64],
    labels: _Labels,
) -> None:
    width = _line_width(canvas)
    boxes: list[Box] = np.rint(detections.boxes_xyxy).astype(int).tolist()
    for box, label in zip(reversed(boxes), reversed(detections.labels.tolist()), strict=True):
        cv2.rectangle(canvas, box[:2], box[2:], _colour(label), width)
    for box, (_, score, label), track in zip(boxes, detections, tracks.tolist(), strict=True):
        name = class_names[label] if track == NO_TRACK else f"{class_names[label]} #{track}"
        labels.add(f"{name} {score:.2f}", box, _colour(label), short=None if track == NO_TRACK else name)
    labels.draw()


def _draw_zone(canvas: NDArray[np.uint8], zone: Zone, inside: int, labels: _Labels) -> None:
    colour = BUSY if inside else LIGHT
    polygon = np.rint(in_pixels(zone.polygon, _size_hw(canvas))).astype(np.int32)  # [n, 2]
    for ink, width in _outlined(canvas, colour):
        cv2.polylines(canvas, [polygon], True, ink, width, cv2.LINE_AA)
    x, y = min(polygon.tolist(), key=lambda point: (point[1], point[0]))  # its highest corner
    labels.add(f"{zone.name} {inside}", (x, y, x, y), DARK, ink=colour)


def _draw_line(canvas: NDArray[np.uint8], line: Line, counts: dict[str, int], labels: _Labels) -> None:
    ends = in_pixels(line.points, _size_hw(canvas))  # [2, 2]
    start, end = np.rint(ends).astype(int).tolist()
    along_x, along_y = (ends[1] - ends[0]) / max(np.linalg.norm(ends[1] - ends[0]), 1e-9)
    middle = ends.mean(axis=0)
    head = middle + np.array([-along_y, along_x]) * 32 * _font_scale(canvas)  # to the right of start → end
    arrow = np.rint([middle, head]).astype(int).tolist()
    for ink, width in _outlined(canvas, LIGHT):
        cv2.line(canvas, start, end, ink, width, cv2.LINE_AA)
        cv2.arrowedLine(canvas, arrow[0], arrow[1], ink, width, cv2.LINE_AA, tipLength=0.5)
    text = f"{line.name} in {counts.get('in', 0)} out {counts.get('out', 0)}"
    labels.add(text, (*start, *start), DARK, ink=LIGHT)


class _Labels:
    """Texts on coloured ground, kept within the picture and off each other; those added first are on top."""

    def __init__(self, canvas: NDArray[np.uint8]) -> None:
        self._canvas = canvas
        self._height, self._width = _size_hw(canvas)
        self._scale = _font_scale(canvas)
        self._line = _line_width(canvas)
        self._thickness = max(1, round(1.6 * self._scale))
        self._margin = 1 + round(5 * self._scale)
        self._placed: list[tuple[Box, str, float, int, Colour, Colour]] = []

    def add(self, text: str, box: Box, ground: Colour, *, ink: Colour | None = None, short: str | None = None) -> None:
        """Find a place for a text at a box; `short` says what matters where the text is wide for the picture."""
        scale, margin = self._scale, self._margin
        (width, height), descent = cv2.getTextSize(text, FONT, scale, self._thickness)
        if short and width > self._width / 4:
            text = short
            (width, height), descent = cv2.getTextSize(text, FONT, scale, self._thickness)
        if width + 2 * margin > self._width:
            scale *= max(1, self._width - 2 * margin) / width
            (width, height), descent = cv2.getTextSize(text, FONT, scale, self._thickness)
        rise = (margin + 1) // 2  # the descent is room already
        place = self._place(width + 2 * margin, height + descent + 2 * rise, box)
        self._placed.append((place, text, scale, rise + height, ground, ink or _ink(ground)))

    def draw(self) -> None:
        """After all lines, so that none runs through a text."""
        for (x0, y0, x1, y1), text, scale, baseline, ground, ink in reversed(self._placed):
            cv2.rectangle(self._canvas, (x0, y0), (x1 - 1, y1 - 1), ground, cv2.FILLED)
            at = (x0 + self._margin, y0 + baseline)
            cv2.putText(self._canvas, text, at, FONT, scale, ink, self._thickness, cv2.LINE_AA)

    def _place(self, width: int, height: int, box: Box) -> Box:
        """Where it covers least of the others: above the box, below, beside, stacked on others, or within it."""
        half = self._line // 2
        x0, y0, x1, y1 = box[0] - half, box[1] - half, box[2] + half + 1, box[3] + half + 1
        above, below, left, right, flush_right = y0 - height, y1, x0 - width, x1, x1 - width
        outside = (x0, above), (flush_right, above), (x0, below), (flush_right, below), (right, y0), (left, y0)
        stacked = (x0, self._clear(x0, above, width, height, up=True)), (x0, self._clear(x0, below, width, height))
        inside = (x0, y0), (flush_right, y1 - height)
        best, least = None, math.inf
        for x, y in (*outside, *stacked, *inside):
            x, y = min(max(x, 0), max(self._width - width, 0)), min(max(y, 0), max(self._height - height, 0))
            place = (x, y, x + width, y + height)
            covered = sum(_overlap(place, other) for other, *_ in self._placed)
            if covered < least:
                best, least = place, covered
            if not covered:
                break
        assert best is not None
        return best

    def _clear(self, x: int, y: int, width: int, height: int, *, up: bool = False) -> int:
        """The nearest top, up or down, that covers no other label; y itself where that is too far from the box."""
        top = y
        while blocking := [other for other, *_ in self._placed if _overlap((x, top, x + width, top + height), other)]:
            top = min(other[1] for other in blocking) - height if up else max(other[3] for other in blocking)
        return top if abs(top - y) <= 3 * height else y


def _overlap(a: Box, b: Box) -> int:
    """The area that two boxes share."""
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def _outlined(canvas: NDArray[np.uint8], colour: Colour) -> tuple[tuple[Colour, int], ...]:
    """Colours and widths of a line that is seen on any ground: a dark one under it."""
    width = _line_width(canvas)
    return (DARK, width + 2 * max(1, width // 2)), (colour, width)


def _line_width(image: NDArray[np.uint8]) -> int:
    """1 pixel at 320 px and VGA, 2 at 720p, 3 at full HD, 6 at 4K."""
    return max(1, round(_diagonal(image) / 750))


def _font_scale(image: NDArray[np.uint8]) -> float:
    """Capitals about 1/110 of the diagonal high, but no smaller than can be read."""
    return max(0.4, _diagonal(image) / 2400)


def _diagonal(image: NDArray[np.uint8]) -> float:
    return math.hypot(*_size_hw(image))


def _size_hw(image: NDArray[np.uint8]) -> tuple[int, int]:
    return image.shape[0], image.shape[1]


@lru_cache(maxsize=1024)
def _colour(label: int) -> Colour:
    """Steps of the golden ratio around the colour wheel: neighbouring labels differ most."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.85, 1.0)
    return round(255 * blue), round(255 * green), round(255 * red)


def _ink(background: Colour) -> Colour:
    """Black or white, whichever stands out (luma of ITU-R BT.601; on red and blue white, on magenta black)."""
    blue, green, red = background
    return (0, 0, 0) if 0.114 * blue + 0.587 * green + 0.299 * red > 110 else (255, 255, 255)
