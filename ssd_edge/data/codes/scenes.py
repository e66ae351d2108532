"""Scenes of printed codes: how many, how large, where, and what covers them.

Endless and labelled, so that anyone can try the whole line offline. `CodesScenes(seed).scene(i)` depends on (seed, i)
only: any order, any process, the same picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from ssd_edge.data.codes.backgrounds import TexturePool, background, distractor
from ssd_edge.data.codes.degrade import degrade, noise_tile, occlude
from ssd_edge.data.codes.print import Print, make_print
from ssd_edge.data.codes.symbols import Image, Rng, Symbol, random_symbol
from ssd_edge.data.codes.warp import (
    SUPERSAMPLE_BELOW_PX,
    Points,
    Pose,
    bend,
    homography,
    outline,
    paste,
    project,
)
from ssd_edge.errors import UsageError

# Frame sizes (height, width) with their weights; the rest of the scenes has any size within FREE_SIDE_PX.
FRAME_SIZES_HW = ((480, 640), (640, 480), (480, 480), (360, 640), (300, 400))
FRAME_SIZE_WEIGHTS = (0.45, 0.1, 0.1, 0.1, 0.05)
FREE_SIDE_PX = (160, 640)
FREE_ASPECT = (0.6, 2.6)  # width over height

CODE_COUNT_PROBABILITIES = (0.06, 0.5, 0.2, 0.12, 0.06, 0.04, 0.02)  # of 0, 1, … codes
CLASS_PROBABILITIES = (0.195, 0.185, 0.185, 0.25, 0.185)  # by label; pdf417 finds a place less often
CLOSE_UP_PROBABILITY = 0.55  # of scenes with one code
CLOSE_UP_SPAN = (0.45, 1.08)  # of what just fits the frame
LARGEST_SPAN = 0.75  # of what just fits the frame, in other scenes
SMALLEST_MODULE_PX = 1.4  # in frames up to 640 pixels long; longer ones scale it up
SMALLEST_SIDE_PX = 22  # of a symbol's short side
UPRIGHT_PROBABILITY = 0.5
SIDEWAYS_PROBABILITY = 0.2
TILT_DEVIATION = 0.28  # radians, of each of the two tilts
LARGEST_TILT = 0.9
FOCAL = (0.9, 2.5)  # of the frame's long side
BEND_PROBABILITY = 0.12
BEND_HALF_ANGLE = (0.3, 1.1)
BEND_BOW = (-0.08, 0.08)
SMALLEST_VISIBLE_SHARE = 0.6  # of a symbol's area; a code is never cut further
CUT_PROBABILITY = 0.15  # of codes that may be cut by the frame
CUT_REACH = 0.12  # of the symbol's extent, by which its place may reach out
LONGEST_PRINT = 1.6  # of the frame's long side: margins need not reach further
PLACEMENT_ATTEMPTS = 14
DISTRACTOR_COUNT_PROBABILITIES = (0.5, 0.25, 0.15, 0.1)  # of 0, 1, … distractors
SURFACE_PRINT_PROBABILITY = 0.45  # of codes whose place is calm enough
CALM_DEVIATION = 15  # of luminance under the code, at most


@dataclass(frozen=True)
class Scene:
    """A labelled picture.

    Attributes:
        image_bgr: uint8 [h, w, 3].
        boxes_xyxy: float32 [n, 4] in pixels, clipped to the frame: the symbols without their quiet zones.
        labels: int64 [n], index into CLASS_NAMES.
    """

    image_bgr: Image
    boxes_xyxy: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class PlacedPrint:
    """A print with its place.

    Attributes:
        matrix: homography from the print's pixels to the frame's, [3, 3].
        hull: visible part of the symbol's outline in the frame, [n, 2].
        reach: the whole print's corners in the frame, [4, 2].
        module_px: the symbol's smallest module in the frame.
    """

    print_: Print
    matrix: Points
    hull: Points
    reach: Points
    module_px: float

    @property
    def box_xyxy(self) -> Points:
        return np.concatenate([self.hull.min(0), self.hull.max(0)])


class CodesScenes:
    """Endless scenes with random access.

    Args:
        seed: another seed gives other scenes.
        size_hw: frame size; None varies it.
        degraded: False prints black on white and leaves out distractors, occlusion, light, blur, noise, JPEG.

    Raises:
        UsageError: a frame side is under 64 pixels.
    """

    def __init__(self, seed: int, size_hw: tuple[int, int] | None = None, *, degraded: bool = True) -> None:
        if size_hw is not None and min(size_hw) < 64:
            raise UsageError(f"frame size {size_hw[0]}×{size_hw[1]} is too small for a code; give at least 64×64")
        self._seed = seed
        self._size_hw = size_hw
        self._degraded = degraded
        self._pool = TexturePool(seed)
        self._noise = noise_tile(seed)

    def scene(self, index: int) -> Scene:
        """The scene `index` ≥ 0, the same whenever and wherever it is asked for."""
        rng = np.random.default_rng([self._seed, index])
        size_hw = self._size_hw or _frame_size(rng)
        frame = background(rng, self._pool, size_hw)
        if self._degraded:
            for _ in range(_draw(rng, DISTRACTOR_COUNT_PROBABILITIES)):
                _paste_distractor(rng, frame, self._pool)
        placed: list[PlacedPrint] = []
        count = _draw(rng, CODE_COUNT_PROBABILITIES)
        for _ in range(count):
            code = _place_code(rng, frame, placed, count, plain=not self._degraded)
            if code is not None:
                placed.append(code)
                paste(frame, code.print_.bgra, code.matrix, module_px=code.module_px)
        if self._degraded:
            occlude(rng, frame, [p.hull for p in placed], self._pool)
            finest = min((p.module_px for p in placed), default=4.0)
            frame = degrade(rng, frame, finest, self._noise)
        return Scene(frame, *targets(placed))


def targets(placed: Sequence[PlacedPrint]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Boxes float32 [n, 4] and labels int64 [n]."""
    boxes = np.array([p.box_xyxy for p in placed], np.float32).reshape(-1, 4)
    labels = np.array([p.print_.symbol.label for p in placed], np.int64)
    return boxes, labels


def _draw(rng: Rng, probabilities: Sequence[float]) -> int:
    """0, 1, … with these probabilities."""
    return int(rng.choice(len(probabilities), p=probabilities))


def _frame_size(rng: Rng) -> tuple[int, int]:
    pick = int(np.searchsorted(np.cumsum(FRAME_SIZE_WEIGHTS), rng.random()))
    if pick < len(FRAME_SIZES_HW):
        return FRAME_SIZES_HW[pick]
    aspect = np.exp(rng.uniform(*np.log(FREE_ASPECT)))
    long_side = rng.uniform(240, FREE_SIDE_PX[1])
    height, width = (long_side / aspect, long_side) if aspect > 1 else (long_side, long_side * aspect)
    return max(FREE_SIDE_PX[0], int(height)), max(FREE_SIDE_PX[0], int(width))


def _paste_distractor(rng: Rng, frame: Image, pool: TexturePool) -> None:
    height, width = frame.shape[:2]
    bgra = distractor(rng, pool)
    centre = (rng.uniform(0, width), rng.uniform(0, height))
    pose = Pose(centre, np.exp(rng.uniform(*np.log((0.3, 1.6)))), *_angles(rng), focal=2.0 * max(width, height))
    print_h, print_w = bgra.shape[:2]
    matrix = homography(pose, (print_w / 2, print_h / 2), (print_w, print_h))
    paste(frame, bgra, matrix, module_px=3.0 if pose.scale < 0.7 else 8.0)


def _angles(rng: Rng) -> tuple[float, float, float]:
    """Turn in the picture plane, and the two tilts out of it."""
    kind = rng.random()
    if kind < UPRIGHT_PROBABILITY:
        angle = rng.normal(0, 0.07)
    elif kind < UPRIGHT_PROBABILITY + SIDEWAYS_PROBABILITY:
        angle = rng.integers(1, 4) * np.pi / 2 + rng.normal(0, 0.1)
    else:
        angle = rng.uniform(0, 2 * np.pi)
    tilts = np.clip(rng.normal(0, TILT_DEVIATION, 2), -LARGEST_TILT, LARGEST_TILT) * (rng.random() < 0.75)
    return float(angle), float(tilts[0]), float(tilts[1])


def _place_code(
    rng: Rng, frame: Image, others: Sequence[PlacedPrint], count: int, *, plain: bool
) -> PlacedPrint | None:
    """A random code at a free place, or None when none was found. `plain` prints black on white, unbent."""
    label = _draw(rng, CLASS_PROBABILITIES)
    close_up = count == 1 and rng.random() < CLOSE_UP_PROBABILITY
    for _ in range(PLACEMENT_ATTEMPTS):
        symbol = random_symbol(rng, label)
        pose = _random_pose(rng, symbol, frame.shape[:2], count, close_up)
        code = pose and _print_at(rng, symbol, pose, frame, plain=plain)
        if code and not any(_overlap(code.reach, o.hull) or _overlap(o.reach, code.hull) for o in others):
            return code
    return None


def _smallest_module_px(symbol: Symbol, size_hw: Sequence[int]) -> float:
    enlarged = max(1.0, max(size_hw) / 640)
    return max(SMALLEST_MODULE_PX * enlarged, SMALLEST_SIDE_PX / min(symbol.size_modules))


def _random_pose(rng: Rng, symbol: Symbol, size_hw: Sequence[int], count: int, close_up: bool) -> Pose | None:
    """A pose whose scale is the module's size in pixels; None where the frame is too small for the symbol."""
    columns, rows = symbol.size_modules
    angle, tilt_x, tilt_y = _angles(rng)
    turn = np.abs([[np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    spread = turn @ (columns, rows)  # width and height of the turned symbol in modules
    frame_wh = np.array([size_hw[1], size_hw[0]])
    fitting = float((frame_wh / spread).min())  # module size at which it just fits
    low = _smallest_module_px(symbol, size_hw)
    if close_up:
        low, high = max(low, fitting * CLOSE_UP_SPAN[0]), fitting * CLOSE_UP_SPAN[1]
    else:
        high = fitting * LARGEST_SPAN / np.sqrt(max(count, 1))
    if low > high:
        return None
    module_px = float(rng.uniform(low, high) if close_up else np.exp(rng.uniform(np.log(low), np.log(high))))
    room = np.maximum(frame_wh - spread * module_px, 0.0) / 2
    overhang = CUT_REACH * spread * module_px * (rng.random() < CUT_PROBABILITY)
    centre = frame_wh / 2 + rng.uniform(-1, 1, 2) * (room + overhang)
    focal = rng.uniform(*FOCAL) * max(size_hw)
    return Pose((float(centre[0]), float(centre[1])), module_px, angle, tilt_x, tilt_y, focal)


def _print_at(rng: Rng, symbol: Symbol, pose: Pose, frame: Image, *, plain: bool) -> PlacedPrint | None:
    """Print the symbol, on its own paper or straight on a calm surface, and place it."""
    height, width = frame.shape[:2]
    module_px = pose.scale
    drawn_px = int(np.ceil(module_px * (2 if module_px < SUPERSAMPLE_BELOW_PX else 1)))
    surface = None
    if not plain and rng.random() < SURFACE_PRINT_PROBABILITY:
        surface = _calm_luminance(frame, pose.centre_xy, max(symbol.size_modules) * module_px / 2)
    longest = int(LONGEST_PRINT * max(height, width) * drawn_px / module_px)
    item = make_print(rng, symbol, drawn_px, surface_luminance=surface, max_px=longest, plain=plain)
    points = outline(item.symbol_box)
    if not plain and rng.random() < BEND_PROBABILITY:
        half_angle, bow = rng.uniform(*BEND_HALF_ANGLE), rng.uniform(*BEND_BOW)
        bent, points = bend(item.bgra, points, half_angle=half_angle, bow=bow)
        item = Print(bent, item.symbol_box, symbol)
    smallest_px = _smallest_module_px(symbol, (height, width))
    pose = replace(pose, scale=module_px / drawn_px)
    return place(item, points, pose, (height, width), smallest_px=smallest_px)


def _calm_luminance(frame: Image, centre_xy: tuple[float, float], radius_px: float) -> float | None:
    """Mean luminance around a place, or None where it varies too much to print on."""
    x0, y0 = (max(0, int(c - radius_px)) for c in centre_xy)
    x1, y1 = (max(1, int(c + radius_px)) for c in centre_xy)
    grey = frame[y0:y1:4, x0:x1:4].mean(axis=2)
    return float(grey.mean()) if grey.size and grey.std() <= CALM_DEVIATION else None


def place(
    item: Print, points: Points, pose: Pose, size_hw: tuple[int, int], *, smallest_px: float
) -> PlacedPrint | None:
    """Lay a print into a frame.

    Args:
        item: the print.
        points: outline of its symbol in the print's pixels, [n, 2], n a multiple of 4, from a corner on.
        pose: where it lies.
        size_hw: frame size.
        smallest_px: least size of a module in the frame.

    Returns:
        None when too little of the symbol would show or its modules would be too small.
    """
    symbol = item.symbol
    columns, rows = symbol.size_modules
    print_h, print_w = item.bgra.shape[:2]
    origin = tuple((points.min(0) + points.max(0)) / 2)
    matrix = homography(pose, (float(origin[0]), float(origin[1])), (print_w, print_h))
    whole = cv2.convexHull(project(points, matrix).astype(np.float32))
    frame = np.array([[0, 0], [size_hw[1], 0], [size_hw[1], size_hw[0]], [0, size_hw[0]]], np.float32)
    visible_area, visible = cv2.intersectConvexConvex(whole, frame)
    whole_area = cv2.contourArea(whole)
    if visible is None or visible_area < SMALLEST_VISIBLE_SHARE * whole_area:
        return None
    corners = project(points[:: len(points) // 4], matrix)
    sides = np.hypot(*(np.roll(corners, -1, axis=0) - corners).T)
    module_px = float((sides / (columns, rows, columns, rows)).min())
    if module_px < smallest_px:
        return None
    reach = project(np.array([[0, 0], [print_w, 0], [print_w, print_h], [0, print_h]], np.float64), matrix)
    return PlacedPrint(item, matrix, visible.reshape(-1, 2).astype(np.float64), reach, module_px)


def _overlap(one: Points, other: Points) -> bool:
    hulls = (cv2.convexHull(p.astype(np.float32)) for p in (one, other))
    return cv2.intersectConvexConvex(*hulls)[0] > 0
