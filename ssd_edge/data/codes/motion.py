"""Codes in motion: each drifts, turns, tilts, grows and shrinks within its own part of the frame."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ssd_edge.data.codes.backgrounds import TexturePool
from ssd_edge.data.codes.degrade import add_noise, light, noise_tile
from ssd_edge.data.codes.print import Print, make_print
from ssd_edge.data.codes.scenes import PlacedPrint, Scene, place, targets
from ssd_edge.data.codes.symbols import (
    AZTEC,
    DATA_MATRIX,
    EAN13,
    PDF417,
    QR,
    Image,
    Rng,
    Symbol,
    random_symbol,
)
from ssd_edge.data.codes.warp import Points, Pose, outline, paste
from ssd_edge.errors import UsageError

ROWS = ((PDF417, EAN13), (QR, DATA_MATRIX, AZTEC))  # wide symbols get the wider parts
SMALLEST_FRAME_HW = (240, 320)
SMALLEST_MODULE_PX = 2.0  # at a code's smallest, where a symbol is found that allows it
SYMBOL_ATTEMPTS = 40
SIZE_SHARE = (0.6, 0.9)  # of what fits the part of the frame; perspective may add a little
TURN = 0.35  # radians to either side
TILT = 0.3
PERIOD_S = (5.0, 12.0)  # of each movement
PAN_SHARE = 0.15  # of the frame, by which the background moves to either side
NOISE_DEVIATION = 3.0
_MOTION_STREAM, _LIGHT_STREAM, _FRAME_STREAM = 0x307, 0x308, 0x309


@dataclass(frozen=True)
class _Swing:
    """A smooth value in −1…1."""

    period_s: float
    phase: float

    def at(self, time_s: float) -> float:
        return float(np.sin(2 * np.pi * time_s / self.period_s + self.phase))


@dataclass(frozen=True)
class _MovingPrint:
    """A print in its part of the frame (x0, y0, x1, y1) with six movements."""

    print_: Print
    area: tuple[float, float, float, float]
    swings: tuple[_Swing, ...]  # drift x, drift y, turn, tilt x, tilt y, size

    def pose(self, time_s: float, focal: float) -> Pose:
        drift_x, drift_y, turn, tilt_x, tilt_y, size = (s.at(time_s) for s in self.swings)
        spread = _spread(self.print_, turn * TURN)
        x0, y0, x1, y1 = self.area
        area_wh = np.array([x1 - x0, y1 - y0])
        low, high = SIZE_SHARE
        scale = float((area_wh / spread).min()) * (low + high + (high - low) * size) / 2
        room = (area_wh - spread * scale) / 2
        centre = ((x0 + x1) / 2 + drift_x * float(room[0]), (y0 + y1) / 2 + drift_y * float(room[1]))
        return Pose(centre, scale, turn * TURN, tilt_x * TILT, tilt_y * TILT, focal)


def _spread(item: Print, angle: float) -> Points:
    """Width and height of the print turned around its symbol's centre, [2]."""
    height, width = item.bgra.shape[:2]
    x0, y0, x1, y1 = item.symbol_box
    half = max(x0 + x1, 2 * width - x0 - x1) / 2, max(y0 + y1, 2 * height - y0 - y1) / 2
    turn = np.abs([[np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    spread: Points = 2 * turn @ half
    return spread


class MovingScene:
    """One of every class in smooth motion over a background that drifts.

    Raises:
        UsageError: the frame is under 240×320 pixels, too small for five codes.
    """

    def __init__(self, seed: int, size_hw: tuple[int, int]) -> None:
        if size_hw[0] < SMALLEST_FRAME_HW[0] or size_hw[1] < SMALLEST_FRAME_HW[1]:
            least = "×".join(map(str, SMALLEST_FRAME_HW))
            raise UsageError(f"frame size {size_hw[0]}×{size_hw[1]} cannot hold five codes; give at least {least}")
        rng = np.random.default_rng([seed, _MOTION_STREAM])
        self._seed = seed
        self._size_hw = size_hw
        self._noise = noise_tile(seed)
        wide_hw = (round(size_hw[0] * (1 + 2 * PAN_SHARE)), round(size_hw[1] * (1 + 2 * PAN_SHARE)))
        self._background = TexturePool(seed).crop(rng, wide_hw)
        self._pan = _swings(rng, 2)
        self._codes = [_moving_print(rng, label, area) for label, area in _areas(rng, size_hw)]

    def frame(self, time_s: float) -> Scene:
        """The scene at that time, in seconds from the start; depends on (seed, frame size, time) only."""
        height, width = self._size_hw
        pan_x, pan_y = ((1 + swing.at(time_s)) * PAN_SHARE for swing in self._pan)
        shift = np.array([[1, 0, -pan_x * width], [0, 1, -pan_y * height]])
        frame: Image = cv2.warpAffine(self._background, shift, (width, height))
        placed: list[PlacedPrint] = []
        for moving in self._codes:
            code = place(
                moving.print_,
                outline(moving.print_.symbol_box),
                moving.pose(time_s, 2.0 * max(height, width)),
                self._size_hw,
                smallest_px=0.0,
            )
            if code is not None:
                paste(frame, code.print_.bgra, code.matrix, module_px=code.module_px)
                placed.append(code)
        frame = light(np.random.default_rng([self._seed, _LIGHT_STREAM]), frame)
        rng = np.random.default_rng([self._seed, _FRAME_STREAM, round(time_s * 1e6)])
        return Scene(add_noise(rng, frame, self._noise, NOISE_DEVIATION), *targets(placed))


def _swings(rng: Rng, count: int) -> tuple[_Swing, ...]:
    return tuple(_Swing(rng.uniform(*PERIOD_S), rng.uniform(0, 2 * np.pi)) for _ in range(count))


def _areas(rng: Rng, size_hw: tuple[int, int]) -> list[tuple[int, tuple[float, float, float, float]]]:
    """Each label with the part of the frame it moves in; order is random within rows and of rows."""
    height, width = size_hw
    areas = []
    for row, labels in enumerate(ROWS[i] for i in rng.permutation(len(ROWS))):
        y0, y1 = height * row / len(ROWS), height * (row + 1) / len(ROWS)
        for column, label in enumerate(rng.permutation(labels)):
            x0, x1 = width * column / len(labels), width * (column + 1) / len(labels)
            areas.append((int(label), (x0, y0, x1, y1)))
    return areas


def _moving_print(rng: Rng, label: int, area: tuple[float, float, float, float]) -> _MovingPrint:
    """A random print of the class, of few enough modules for its part of the frame."""
    area_wh = np.array([area[2] - area[0], area[3] - area[1]])

    def smallest_module_px(symbol: Symbol) -> float:
        spread = _spread(make_print(rng, symbol, 1, max_px=1), TURN)
        return SIZE_SHARE[0] * float((area_wh / spread).min())

    symbol = random_symbol(rng, label)
    module_px = smallest_module_px(symbol)
    for _ in range(SYMBOL_ATTEMPTS):
        if module_px >= SMALLEST_MODULE_PX:
            break
        other = random_symbol(rng, label)
        other_px = smallest_module_px(other)
        if other_px > module_px:
            symbol, module_px = other, other_px
    drawn_px = max(3, int(np.ceil(module_px * 2)))
    return _MovingPrint(make_print(rng, symbol, drawn_px, max_px=1), area, _swings(rng, 6))
