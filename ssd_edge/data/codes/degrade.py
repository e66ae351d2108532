"""What a camera and the world do to a scene. It scales with the smallest module: codes stay codes."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from ssd_edge.data.codes.backgrounds import TexturePool
from ssd_edge.data.codes.print import with_luminance
from ssd_edge.data.codes.symbols import Image, Rng

OCCLUSION_PROBABILITY = 0.14  # a code
LARGEST_OCCLUDED_SHARE = 0.25  # of a code's area

LIGHT_PROBABILITY = 0.55
SHADOW_PROBABILITY = 0.15
GLARE_PROBABILITY = 0.12
GLARE_SHARE = 0.07  # of the frame's area, at most
DEFOCUS_PROBABILITY = 0.4
DEFOCUS_SIGMA = (0.1, 0.55)  # of the smallest module
LARGEST_SIGMA_PX = 5.0
MOTION_PROBABILITY = 0.15
MOTION_LENGTH = (0.5, 1.5)  # of the smallest module
LARGEST_MOTION_PX = 21
LOW_RESOLUTION_PROBABILITY = 0.12
LOW_RESOLUTION_MODULE_PX = 1.5  # of the smallest module, at least, after shrinking
SHARPEN_PROBABILITY = 0.12
NOISE_PROBABILITY = 0.6
NOISE_TILE_DEVIATION = 32  # grey levels; integers this wide still give fine steps when scaled down
NOISE_DEVIATION = (1.0, 14.0)  # grey levels, log-uniform
GREY_PROBABILITY = 0.2  # monochrome cameras
TONE_PROBABILITY = 0.5
JPEG_PROBABILITY = 0.4
JPEG_QUALITY = (35, 95)
FINE_JPEG_QUALITY = 60  # at least, where modules are smaller than FINE_MODULE_PX
FINE_MODULE_PX = 2.5

NOISE_TILE_HW = (720, 800)  # noise is cut from one tile at a random place
LIGHT_GRID = 12  # light varies slowly: it is drawn this small and enlarged
_NOISE_STREAM = 0x4015E

Points = NDArray[np.float64]


def noise_tile(seed: int) -> NDArray[np.int16]:
    """Gaussian noise of NOISE_TILE_DEVIATION, int16 [NOISE_TILE_HW, 3]."""
    rng = np.random.default_rng([seed, _NOISE_STREAM])
    return (rng.standard_normal((*NOISE_TILE_HW, 3), dtype=np.float32) * NOISE_TILE_DEVIATION).astype(np.int16)


def occlude(rng: Rng, frame_bgr: Image, hulls: list[Points], pool: TexturePool) -> None:
    """Put fingers, stripes and leaves on some codes, in place; `hulls` are the codes' outlines [n, 2]."""
    for hull in hulls:
        if rng.random() < OCCLUSION_PROBABILITY:
            _occlude_one(rng, frame_bgr, hull, hulls, pool)


def _occlude_one(rng: Rng, frame_bgr: Image, hull: Points, hulls: list[Points], pool: TexturePool) -> None:
    height, width = frame_bgr.shape[:2]
    mask = np.zeros((height, width), np.uint8)
    target = hull[int(rng.integers(len(hull)))] * 0.75 + hull.mean(0) * 0.25  # near the border of the code
    size = float(np.sqrt(cv2.contourArea(hull.astype(np.float32)))) * rng.uniform(0.08, 0.35)
    direction = rng.normal(size=2)
    direction /= np.hypot(*direction)
    outwards = target - hull.mean(0)
    outwards /= max(float(np.hypot(*outwards)), 1e-6)
    kind = int(rng.integers(3))
    if kind == 0:  # a finger that reaches in
        end = target + (outwards + 0.3 * direction) * max(height, width)
        _thick_line(mask, target, end, size * 1.4)
    elif kind == 1:  # a pen, a wire, a strip of tape
        _thick_line(mask, target - direction * 3 * size, target + direction * 3 * size, size * 0.4)
    else:  # a leaf
        turn = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(4, 9))))
        leaf = target + size * np.column_stack([np.cos(turn), np.sin(turn)])
        cv2.fillPoly(mask, [np.round(leaf).astype(np.int32)], 255, cv2.LINE_AA)
    if any(not _is_slight(mask, other) for other in hulls):
        return
    x, y, w, h = cv2.boundingRect(mask)
    if w == 0 or h == 0:
        return
    region = frame_bgr[y : y + h, x : x + w]
    cover: Image
    if kind == 0:
        skin = np.array([95, 125, 185]) * rng.uniform(0.35, 1.25)
        depth = cv2.distanceTransform(mask[y : y + h, x : x + w], cv2.DIST_L2, 3) / max(size * 0.7, 1.0)
        cover = np.clip(skin * (0.65 + 0.4 * np.clip(depth, 0, 1))[..., None], 0, 255).astype(np.uint8)
    elif rng.random() < 0.5:
        cover = pool.crop(rng, (h, w))
    else:
        cover = np.empty_like(region)
        cover[:] = with_luminance(rng, rng.uniform(10, 250), rng.uniform(0, 0.8)).astype(np.uint8)
    region[:] = cv2.copyTo(cover, mask[y : y + h, x : x + w], region.copy())


def _thick_line(mask: Image, start: Points, end: Points, thickness: float) -> None:
    first, last = ((int(p[0]), int(p[1])) for p in (start, end))
    cv2.line(mask, first, last, 255, max(2, min(255, round(thickness))), cv2.LINE_AA)


def _is_slight(mask: Image, hull: Points) -> bool:
    """Whether the mask hides no more of the code than LARGEST_OCCLUDED_SHARE allows."""
    code = np.zeros_like(mask)
    cv2.fillConvexPoly(code, np.round(hull).astype(np.int32), 255)
    area = max(cv2.countNonZero(code), 1)
    return cv2.countNonZero(cv2.bitwise_and(mask, code)) <= LARGEST_OCCLUDED_SHARE * area


def degrade(rng: Rng, frame_bgr: Image, module_px: float, tile: NDArray[np.int16]) -> Image:
    """Light, lens, sensor and compression. `module_px` is the scene's smallest module in pixels."""
    image = light(rng, frame_bgr)
    image = _tone(rng, image)
    image = _lens(rng, image, module_px)
    if rng.random() < NOISE_PROBABILITY:
        deviation = float(np.exp(rng.uniform(*np.log(NOISE_DEVIATION))))
        image = add_noise(rng, image, tile, deviation)
    if rng.random() < GREY_PROBABILITY:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    if rng.random() < JPEG_PROBABILITY:
        low = FINE_JPEG_QUALITY if module_px < FINE_MODULE_PX else JPEG_QUALITY[0]
        quality = int(rng.integers(low, JPEG_QUALITY[1] + 1))
        encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        image = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)
    return image


def light(rng: Rng, image: Image) -> Image:
    """A gradient, a shadow's edge, a glare."""
    height, width = image.shape[:2]
    uneven, shadow, glare = rng.random(3) < (LIGHT_PROBABILITY, SHADOW_PROBABILITY, GLARE_PROBABILITY)
    if uneven:
        corners = rng.uniform(0.55, 1.1, (2, 2))
        field = cv2.resize(corners, (LIGHT_GRID, LIGHT_GRID), interpolation=cv2.INTER_CUBIC)
        field = np.clip(field + rng.normal(0, 0.015, field.shape), 0.2, 1.3)
        small = np.round(field * 180).astype(np.uint8)
        factor = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
        image = cv2.multiply(image, cv2.cvtColor(factor, cv2.COLOR_GRAY2BGR), scale=1 / 180)
    if shadow:
        mask = np.full((height // 4, width // 4), 255, np.uint8)
        corners = rng.uniform(-0.4, 1.4, (int(rng.integers(3, 6)), 2)) * (width // 4, height // 4)
        hull = cv2.convexHull(np.round(corners).astype(np.int32))
        cv2.fillConvexPoly(mask, hull, int(rng.uniform(110, 215)))
        mask = cv2.resize(cv2.blur(mask, (int(rng.integers(1, 9)),) * 2), (width, height))
        image = cv2.multiply(image, cv2.cvtColor(mask, cv2.COLOR_GRAY2BGR), scale=1 / 255)
    if glare:
        spot = np.zeros((height // 4, width // 4), np.uint8)
        share = rng.uniform(0.1, 1.0) * GLARE_SHARE
        long_axis = np.sqrt(share * spot.size / np.pi) * rng.uniform(1, 2.5)
        short_axis = share * spot.size / np.pi / long_axis
        centre = (int(rng.integers(spot.shape[1])), int(rng.integers(spot.shape[0])))
        axes = (max(1, int(long_axis)), max(1, int(short_axis)))
        cv2.ellipse(spot, centre, axes, float(rng.uniform(0, 180)), 0, 360, float(rng.uniform(80, 255)), -1)
        spot = cv2.blur(cv2.blur(spot, (max(3, int(short_axis)),) * 2), (max(3, int(short_axis)),) * 2)
        image = cv2.add(image, cv2.cvtColor(cv2.resize(spot, (width, height)), cv2.COLOR_GRAY2BGR))
    return image


def _tone(rng: Rng, image: Image) -> Image:
    """White balance, exposure and contrast in one table a channel."""
    if rng.random() >= TONE_PROBABILITY:
        return image
    gamma = np.exp(rng.normal(0, 0.2))
    black = rng.uniform(0, 40) * (rng.random() < 0.3)
    gain = np.exp(rng.normal(0, 0.12)) * rng.uniform(0.9, 1.1, 3)
    curve = (np.arange(256) / 255)[:, None] ** gamma * gain * (255 - black) + black
    return cv2.LUT(image, np.clip(curve, 0, 255).astype(np.uint8)[None])


def _lens(rng: Rng, image: Image, module_px: float) -> Image:
    """Defocus, motion, a coarse sensor, or sharpening."""
    height, width = image.shape[:2]
    if rng.random() < DEFOCUS_PROBABILITY:
        image = _blur(image, min(rng.uniform(*DEFOCUS_SIGMA) * module_px, LARGEST_SIGMA_PX))
    if rng.random() < MOTION_PROBABILITY:
        image = _motion(rng, image, min(rng.uniform(*MOTION_LENGTH) * module_px, LARGEST_MOTION_PX))
    if rng.random() < LOW_RESOLUTION_PROBABILITY and module_px > LOW_RESOLUTION_MODULE_PX:
        scale = max(rng.uniform(LOW_RESOLUTION_MODULE_PX / module_px, 1), 0.2)
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        image = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    if rng.random() < SHARPEN_PROBABILITY:
        amount = rng.uniform(0.3, 1.5)
        image = cv2.addWeighted(image, 1 + amount, cv2.blur(image, (3, 3)), -amount, 0)
    return image


def _blur(image: Image, sigma_px: float) -> Image:
    """Gaussian blur; wide ones at half the resolution, where nobody can tell."""
    if sigma_px < 0.3:
        return image
    if sigma_px < 2.5:
        return cv2.GaussianBlur(image, (0, 0), sigma_px)
    height, width = image.shape[:2]
    small = cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    return cv2.resize(cv2.GaussianBlur(small, (0, 0), sigma_px / 2), (width, height), interpolation=cv2.INTER_LINEAR)


def _motion(rng: Rng, image: Image, length_px: float) -> Image:
    size = int(length_px) | 1
    if size < 3:
        return image
    kernel = np.zeros((size, size), np.float32)
    angle = rng.uniform(0, np.pi)
    reach = np.array([np.cos(angle), np.sin(angle)]) * size / 2
    centre = np.array([size // 2, size // 2])
    first, last = (tuple(int(v) for v in np.round(centre + s * reach)) for s in (-1, 1))
    cv2.line(kernel, first, last, 1.0, 1, cv2.LINE_AA)
    return cv2.filter2D(image, -1, kernel / kernel.sum())


def add_noise(rng: Rng, image: Image, tile: NDArray[np.int16], deviation: float) -> Image:
    """Add Gaussian noise of that deviation in grey levels, cut from `noise_tile`."""
    height, width = image.shape[:2]
    if height > tile.shape[0] or width > tile.shape[1]:
        tile = np.tile(tile, (-(-height // tile.shape[0]), -(-width // tile.shape[1]), 1))
    y = int(rng.integers(0, tile.shape[0] - height + 1))
    x = int(rng.integers(0, tile.shape[1] - width + 1))
    noise = tile[y : y + height, x : x + width]
    if rng.random() < 0.4:  # the same in every channel
        noise = cv2.cvtColor(np.ascontiguousarray(noise[..., 0]).view(np.uint16), cv2.COLOR_GRAY2BGR).view(np.int16)
    return cv2.addWeighted(image, 1.0, noise, deviation / NOISE_TILE_DEVIATION, 0, dtype=cv2.CV_8U)
