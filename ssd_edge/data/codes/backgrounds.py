"""Backgrounds with natural statistics, and distractors: things with structure which are no codes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ssd_edge.data.codes.print import fill_with_text, with_luminance
from ssd_edge.data.codes.symbols import Image, Rng

POOL_SIZE = 96  # textures a process keeps, made when first needed
TEXTURE_PX = 512
_POOL_STREAM = 0x7E57  # keeps the pool's random numbers apart from the scenes'

# Of scenes: a crop of one texture, two textures meeting at an edge, or a plain lit surface.
BACKGROUNDS = ("texture", "two textures", "plain")
BACKGROUND_PROBABILITIES = (0.45, 0.22, 0.33)
CROP_SIDE = (0.35, 1.0)  # of a texture

# Dead leaves: radii follow r^-3, as natural images are scale invariant (Lee, Mumford, Huang, IJCV 2001).
LEAVES = (250, 600)
LEAF_RADIUS_PX = (4, 160)


class TexturePool:
    """Textures uint8 [TEXTURE_PX, TEXTURE_PX, 3] that depend on (seed, index) only."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._textures: dict[int, Image] = {}

    def __getitem__(self, index: int) -> Image:
        if index not in self._textures:
            rng = np.random.default_rng([self._seed, _POOL_STREAM, index])
            self._textures[index] = _TEXTURES[index % len(_TEXTURES)](rng)
        return self._textures[index]

    def crop(self, rng: Rng, size_hw: tuple[int, int]) -> Image:
        """A random texture, cropped, turned, recoloured and enlarged to `size_hw`."""
        texture = self[int(rng.integers(POOL_SIZE))]
        height, width = size_hw
        side = rng.uniform(*CROP_SIDE) * TEXTURE_PX / max(height, width)
        crop_h, crop_w = max(8, int(height * side)), max(8, int(width * side))
        y, x = (int(rng.integers(0, TEXTURE_PX - c + 1)) for c in (crop_h, crop_w))
        crop = texture[y : y + crop_h, x : x + crop_w]
        flip = int(rng.integers(4))
        crop = crop[:: -1 if flip & 1 else 1, :: -1 if flip & 2 else 1]
        if rng.random() < 0.4:  # another order of the channels is another set of colours
            crop = crop[..., rng.permutation(3)]
        image = cv2.resize(np.ascontiguousarray(crop), (width, height), interpolation=cv2.INTER_LINEAR)
        gain = rng.uniform(0.5, 1.25) * rng.uniform(0.85, 1.15, 3)
        return cv2.multiply(image, (*gain, 0.0))


def background(rng: Rng, pool: TexturePool, size_hw: tuple[int, int]) -> Image:
    """A frame without codes, uint8 [h, w, 3]."""
    kind = str(rng.choice(BACKGROUNDS, p=BACKGROUND_PROBABILITIES))
    if kind == "plain":
        return _plain(rng, size_hw)
    image = pool.crop(rng, size_hw)
    if kind == "two textures":
        height, width = size_hw
        edge = _half_plane(rng, width, height)
        other = pool.crop(rng, size_hw)
        mask = np.zeros(size_hw, np.uint8)
        cv2.fillConvexPoly(mask, edge, 255)
        image = cv2.copyTo(other, mask, image)
    return image


def _half_plane(rng: Rng, width: int, height: int) -> NDArray[np.int32]:
    """A big quadrangle, int32 [4, 2], whose one side crosses the frame near its middle."""
    angle = rng.uniform(0, 2 * np.pi)
    normal, along = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    point = np.array([width, height]) * rng.uniform(0.25, 0.75, 2)
    reach = 2.0 * max(width, height)
    corners = [point + along * reach, point - along * reach]
    corners += [corners[1] + normal * reach, corners[0] + normal * reach]
    return np.round(corners).astype(np.int32)


def _plain(rng: Rng, size_hw: tuple[int, int]) -> Image:
    """A wall, a desk or a sheet: one colour, softly graded."""
    height, width = size_hw
    luminance = rng.uniform(20, 250)
    colour = with_luminance(rng, luminance, rng.uniform(0.3, 0.9) if rng.random() < 0.3 else rng.uniform(0, 0.15))
    grades = colour * rng.uniform(0.75, 1.15, (2, 2, 1))
    noise = rng.normal(0, rng.uniform(0, 4), (24, 24, 1))
    small = cv2.resize(grades, (24, 24), interpolation=cv2.INTER_LINEAR) + noise
    return cv2.resize(np.clip(small, 0, 255).astype(np.uint8), (width, height), interpolation=cv2.INTER_LINEAR)


# --- textures


def _octaves(
    rng: Rng, *, finest: int = TEXTURE_PX, persistence: float = 0.6, stretch: float = 1.0
) -> NDArray[np.float32]:
    """Multi-octave noise [TEXTURE_PX, TEXTURE_PX], mean 0, deviation 1; `stretch` draws it out along x."""
    total = np.zeros((TEXTURE_PX, TEXTURE_PX), np.float32)
    cells, weight = 4, 1.0
    while cells <= finest:
        grid = rng.standard_normal((cells, max(2, int(cells / stretch))), dtype=np.float32)
        total += weight * cv2.resize(grid, (TEXTURE_PX, TEXTURE_PX), interpolation=cv2.INTER_LINEAR)
        cells, weight = cells * 2, weight * persistence
    total -= total.mean()
    return total / max(float(total.std()), 1e-6)


def _palette(rng: Rng, count: int) -> NDArray[np.float64]:
    """Colours BGR [count, 3] that go together: one or two hues at many brightnesses."""
    base = rng.uniform(30, 225, (2, 3))
    mix = rng.random((count, 1))
    brightness = np.exp(rng.normal(0, 0.5, (count, 1)))
    return np.clip((base[0] * mix + base[1] * (1 - mix)) * brightness + rng.normal(0, 15, (count, 3)), 0, 255)


def _shaded(image: NDArray[Any], shade: NDArray[Any]) -> Image:
    return np.clip(image * (1 + shade)[..., None], 0, 255).astype(np.uint8)


def _dead_leaves(rng: Rng) -> Image:
    count = int(rng.integers(*LEAVES))
    low, high = LEAF_RADIUS_PX
    radii = 1 / np.sqrt(rng.uniform(1 / high**2, 1 / low**2, count))  # density r^-3
    radii[: count // 10] = rng.uniform(high / 2, high, count // 10)  # nothing is left bare
    centres = rng.uniform(0, TEXTURE_PX, (count, 2))
    colours = _palette(rng, count)
    roughness = rng.uniform(0.0, 0.25, count)
    sides = rng.integers(3, 8, count)
    discs = rng.random()  # share of round leaves
    image = np.zeros((TEXTURE_PX, TEXTURE_PX, 3), np.uint8)
    rough = np.zeros((TEXTURE_PX, TEXTURE_PX), np.float32)
    for radius, centre, colour, amount, corners in zip(radii, centres, colours, roughness, sides, strict=True):
        if rng.random() < discs:
            turn = np.linspace(0, 2 * np.pi, 16, endpoint=False)
        else:
            turn = np.sort(rng.uniform(0, 2 * np.pi, corners))
        leaf = centre + radius * np.column_stack([np.cos(turn), np.sin(turn)])
        polygon = np.round(leaf).astype(np.int32)
        cv2.fillPoly(image, [polygon], colour.tolist(), cv2.LINE_AA)
        cv2.fillPoly(rough, [polygon], float(amount))
    return _shaded(image, rough * _octaves(rng))


def _noise(rng: Rng) -> Image:
    """Clouds, stone, rust: noise through a palette."""
    field = _octaves(rng, persistence=rng.uniform(0.4, 0.85))
    index = np.clip(field * 40 + 128, 0, 255).astype(np.uint8)
    knots = _palette(rng, int(rng.integers(2, 5))).astype(np.float32)[None]  # [1, knots, 3]
    table = cv2.resize(knots, (256, 1), interpolation=cv2.INTER_LINEAR).astype(np.uint8)
    return cv2.LUT(cv2.cvtColor(index, cv2.COLOR_GRAY2BGR), table)


def _grain(rng: Rng) -> Image:
    """Wood, brushed metal: noise drawn out along one direction."""
    field = _octaves(rng, persistence=0.75, stretch=rng.uniform(8, 40))
    field = field.T if rng.random() < 0.5 else field
    return _shaded(np.broadcast_to(_palette(rng, 1)[0], (*field.shape, 3)), 0.15 * field)


def _fabric(rng: Rng) -> Image:
    """A weave, or corrugated cardboard when one direction is weak."""
    x = np.arange(TEXTURE_PX, dtype=np.float32)
    period = rng.uniform(4, 16, 2)
    strength = rng.uniform(0, 0.2, 2)
    threads = (
        strength[0] * np.sin(2 * np.pi * x / period[0])[None] + strength[1] * np.sin(2 * np.pi * x / period[1])[:, None]
    )
    shade = threads.astype(np.float32) + 0.1 * _octaves(rng)
    return _shaded(np.broadcast_to(_palette(rng, 1)[0], (TEXTURE_PX, TEXTURE_PX, 3)), shade)


def _paper(rng: Rng) -> Image:
    """Paper or cardboard with fibres and folds."""
    shade = 0.03 * _octaves(rng, persistence=0.9) + 0.04 * _octaves(rng, finest=16)
    for _ in range(int(rng.integers(0, 4))):
        fold = np.zeros((TEXTURE_PX, TEXTURE_PX), np.uint8)
        cv2.fillConvexPoly(fold, _half_plane(rng, TEXTURE_PX, TEXTURE_PX), 255)
        shade += rng.uniform(-0.12, 0.12) * cv2.GaussianBlur(fold, (0, 0), 1.5).astype(np.float32) / 255
    colour = with_luminance(rng, rng.uniform(120, 245), rng.uniform(0, 0.4))
    return _shaded(np.broadcast_to(colour, (TEXTURE_PX, TEXTURE_PX, 3)), shade)


def _text_page(rng: Rng) -> Image:
    """A printed page: columns of text, headings, pictures."""
    ink = np.zeros((TEXTURE_PX, TEXTURE_PX), np.uint8)
    page = _paper(rng).astype(np.float32)
    columns = int(rng.integers(1, 4))
    edges = np.linspace(0, TEXTURE_PX, columns + 1).astype(int)
    for x0, x1 in pairwise(edges):
        y = 0
        while y < TEXTURE_PX - 20:
            block = int(rng.integers(30, 220))
            if rng.random() < 0.2:
                page[y + 6 : y + block - 6, x0 + 8 : x1 - 8] = rng.uniform(40, 220, 3)
            else:
                fill_with_text(rng, ink[y : y + block, x0 + 6 : x1 - 6])
            y += block
    strength = rng.uniform(0.5, 0.95)
    return np.clip(page * (1 - strength * ink[..., None] / 255), 0, 255).astype(np.uint8)


def _collage(rng: Rng) -> Image:
    """A desk: textures overlapping with soft shadows."""
    image = _SURFACES[int(rng.integers(len(_SURFACES)))](rng)
    for _ in range(int(rng.integers(2, 7))):
        other = _SURFACES[int(rng.integers(len(_SURFACES)))](rng)
        mask = np.zeros((TEXTURE_PX, TEXTURE_PX), np.uint8)
        centre, size = rng.uniform(0, TEXTURE_PX, 2), rng.uniform(60, 320, 2)
        box = cv2.boxPoints((centre.tolist(), size.tolist(), float(rng.uniform(0, 180))))
        cv2.fillConvexPoly(mask, np.round(box + 6).astype(np.int32), 255)
        shadow = 1 - 0.5 * cv2.GaussianBlur(mask, (0, 0), 6).astype(np.float32) / 255
        image = (image * shadow[..., None]).astype(np.uint8)
        mask[:] = 0
        cv2.fillConvexPoly(mask, np.round(box).astype(np.int32), 255, cv2.LINE_AA)
        image = cv2.copyTo(other, mask, image)
    return image


_SURFACES = (_noise, _grain, _fabric, _paper)
_TEXTURES = (
    _dead_leaves,
    _collage,
    _text_page,
    _dead_leaves,
    _noise,
    _grain,
    _collage,
    _fabric,
    _paper,
    _dead_leaves,
)

# --- distractors


def distractor(rng: Rng, pool: TexturePool) -> Image:
    """A piece of print with structure that belongs to no class: uint8 [h, w, 4], opaque BGRA."""
    height, width = (int(s) for s in rng.integers(60, 260, 2))
    cover = np.zeros((height, width), np.uint8)
    kind = int(rng.integers(len(_PATTERNS) + 1))
    paper = with_luminance(rng, rng.uniform(60, 250), rng.uniform(0, 0.7))
    ink = with_luminance(rng, rng.uniform(0, 200), rng.uniform(0, 0.9))
    if kind == len(_PATTERNS):
        colour = pool.crop(rng, (height, width))  # a picture
    else:
        _PATTERNS[kind](rng, cover)
        share = np.arange(256)[:, None] / 255
        table = np.round(paper + (ink - paper) * share).astype(np.uint8)[None]
        colour = cv2.LUT(cv2.cvtColor(cover, cv2.COLOR_GRAY2BGR), table)
    return cv2.cvtColor(colour, cv2.COLOR_BGR2BGRA)


def _checkerboard(rng: Rng, cover: Image) -> None:
    rows, columns = np.indices(cover.shape) // int(rng.integers(5, 40))
    cover[(rows + columns) % 2 == 0] = 255


def _grid(rng: Rng, cover: Image) -> None:
    """A table: ruled, some cells with a word."""
    step_x, step_y = (int(s) for s in rng.integers(10, 60, 2))
    thickness = int(rng.integers(1, 4))
    cover[:, np.arange(cover.shape[1]) % step_x < thickness] = 255
    cover[np.arange(cover.shape[0]) % step_y < thickness] = 255
    for y in range(0, cover.shape[0], step_y):
        for x in range(0, cover.shape[1], step_x):
            if rng.random() < 0.3 and min(step_x, step_y) > 16:
                fill_with_text(rng, cover[y + 3 : y + step_y - 1, x + 3 : x + step_x - 1])


def _stripes(rng: Rng, cover: Image) -> None:
    """Even stripes: a bar code's differ in width."""
    period = int(rng.integers(6, 50))
    slant = rng.uniform(-1, 1) if rng.random() < 0.5 else 0.0
    y, x = np.indices(cover.shape)
    cover[(x + slant * y) % period < period * rng.uniform(0.3, 0.7)] = 255


def _dots(rng: Rng, cover: Image) -> None:
    step = int(rng.integers(6, 30))
    radius = rng.uniform(0.2, 0.45) * step
    y, x = np.indices(cover.shape)
    shifted = x + (y // step % 2) * (step // 2 if rng.random() < 0.5 else 0)
    cover[np.hypot(shifted % step - step / 2, y % step - step / 2) < radius] = 255


def _crossword(rng: Rng, cover: Image) -> None:
    """Few big black cells between ruled white ones."""
    step = int(rng.integers(14, 32))
    cells = (rng.random((cover.shape[0] // step + 1, cover.shape[1] // step + 1)) < 0.18).astype(np.uint8) * 255
    cover[:] = np.kron(cells, np.ones((step, step), np.uint8))[: cover.shape[0], : cover.shape[1]]
    cover[:, ::step] = 255
    cover[::step] = 255


def _text_block(rng: Rng, cover: Image) -> None:
    fill_with_text(rng, cover[4:-4, 4:-4])


def _rings(rng: Rng, cover: Image) -> None:
    """Round targets and dials."""
    centre = (cover.shape[1] // 2, cover.shape[0] // 2)
    step = int(rng.integers(6, 24))
    for radius in range(step, min(cover.shape) // 2, step):
        cv2.circle(cover, centre, radius, 255, max(1, step // 3), cv2.LINE_AA)


def _keys(rng: Rng, cover: Image) -> None:
    """Rows of keys or icons: rounded blocks with a letter."""
    step = int(rng.integers(18, 44))
    for y in range(2, cover.shape[0] - step, step):
        for x in range(2, cover.shape[1] - step, step):
            cv2.rectangle(cover, (x + 2, y + 2), (x + step - 3, y + step - 3), 120, -1)
            letter = chr(int(rng.integers(ord("A"), ord("Z") + 1)))
            origin = (x + step // 4, y + 3 * step // 4)
            cv2.putText(cover, letter, origin, cv2.FONT_HERSHEY_SIMPLEX, step / 50, 255, 1, cv2.LINE_AA)


_PATTERNS = (_checkerboard, _grid, _stripes, _dots, _crossword, _text_block, _text_block, _rings, _keys)
