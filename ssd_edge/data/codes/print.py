"""What a code is printed on: quiet zone, label with text, screen, or straight onto the surface."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ssd_edge.data.codes.symbols import (
    EAN13,
    LOGO_PROBABILITY,
    QR,
    QUIET_ZONE,
    Image,
    Rng,
    Symbol,
    draw_ean_digits,
    draw_line_of_text,
    draw_logo,
    draw_symbol,
    random_text,
)

# What a code is printed on: a patch as big as its quiet zone, a label with print around, a screen.
LAYOUTS = ("patch", "label", "screen")
LAYOUT_PROBABILITIES = (0.42, 0.48, 0.1)
QUIET_ZONE_FACTOR = (0.4, 2.0)  # of what the standard asks for
LABEL_MARGIN = (0.05, 0.6)  # of the symbol's height, a side
SCREEN_BEZEL = (0.08, 0.25)  # of the symbol's height

INVERTED_PROBABILITY = 0.09
COLOUR_PROBABILITY = 0.3  # of ink, and of paper, that is not grey
LOW_CONTRAST_PROBABILITY = 0.15
CONTRAST = (95, 235)  # luminance of paper less that of ink
LOW_CONTRAST = (50, 95)
PAPER_LUMINANCE = (130, 252)
GRADIENT_INK_PROBABILITY = 0.12
PAPER_NOISE = (0.0, 0.05)  # standard deviation of its reflectance
DIRECT_OPACITY = (0.65, 0.97)  # of ink straight on the surface
DIRECT_CONTRAST = 70  # luminance of surface less that of ink, or the other way round, at least
DIRECT_DARK_INK_ABOVE = 120  # surfaces darker than this take light ink


@dataclass(frozen=True)
class Print:
    """A flat piece of print.

    Attributes:
        bgra: uint8 [h, w, 4], colour premultiplied with alpha.
        symbol_box: x0, y0, x1, y1 of the symbol's modules in it, in pixels.
        symbol: what is printed.
    """

    bgra: Image
    symbol_box: tuple[int, int, int, int]
    symbol: Symbol


def with_luminance(rng: Rng, luminance: float, saturation: float) -> NDArray[np.float64]:
    """A random hue as BGR float64 [3] in 0–255 of the given luminance; saturation in 0–1."""
    colour = 1 - saturation * rng.random(3)
    colour /= colour.max()
    target = min(max(luminance, 0.0), 255.0) / 255
    own = float(colour @ (0.114, 0.587, 0.299))  # ITU-R BT.601 luma, BGR order
    if own >= target:
        return colour * (target / own * 255)
    return (colour + (1 - colour) * (target - own) / (1 - own)) * 255


def ink_and_paper(rng: Rng) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """BGR of ink and paper with enough contrast to be read; light ink on dark paper for inverted prints."""
    low = rng.random() < LOW_CONTRAST_PROBABILITY
    paper_luminance = rng.uniform(*PAPER_LUMINANCE)
    contrast = min(rng.uniform(*(LOW_CONTRAST if low else CONTRAST)), paper_luminance - 4)
    saturations = [rng.uniform(0.3, 1.0) if rng.random() < COLOUR_PROBABILITY else rng.uniform(0, 0.12) for _ in "ip"]
    ink = with_luminance(rng, paper_luminance - contrast, saturations[0])
    paper = with_luminance(rng, paper_luminance, saturations[1])
    return (paper, ink) if rng.random() < INVERTED_PROBABILITY else (ink, paper)


def _surface_ink(rng: Rng, luminance: float) -> NDArray[np.float64]:
    """BGR of an ink that shows on a surface of that luminance."""
    if luminance > DIRECT_DARK_INK_ABOVE:
        level = rng.uniform(0, luminance - DIRECT_CONTRAST)
    else:
        level = rng.uniform(luminance + DIRECT_CONTRAST, 255)
    return with_luminance(rng, level, rng.uniform(0.3, 1.0) if rng.random() < COLOUR_PROBABILITY else 0.0)


def make_print(
    rng: Rng,
    symbol: Symbol,
    module_px: int,
    *,
    surface_luminance: float | None = None,
    max_px: int = 1200,
    plain: bool = False,
) -> Print:
    """Lay `symbol` out at `module_px` pixels a module.

    Args:
        surface_luminance: print ink alone, straight onto a surface this bright (0–255); None: on paper.
        max_px: margins stop where the print would be longer than this.
        plain: black on white with a full quiet zone and nothing else, for checks.
    """
    kind = "patch" if plain else str(rng.choice(LAYOUTS, p=LAYOUT_PROBABILITIES))
    if surface_luminance is not None:
        kind = "label"
    columns, rows = symbol.size_modules
    factor = 1.5 if plain else rng.uniform(*QUIET_ZONE_FACTOR)
    digits = symbol.label == EAN13 and symbol.human_readable
    quiet_x, quiet_y = (round(q * factor * module_px) for q in QUIET_ZONE[symbol.label])
    quiet = np.array([quiet_x, quiet_y, quiet_x, quiet_y])  # left, top, right, bottom
    if digits:
        quiet = np.maximum(quiet, np.array([10, 1, 9 if symbol.upc else 2, 5]) * module_px)
    margins = _margins(rng, kind, np.array([columns, rows]) * module_px, quiet, max_px)
    left, top, right, bottom = (int(m) for m in quiet + margins)
    width, height = columns * module_px, rows * module_px
    coverage = np.zeros((top + height + bottom, left + width + right), np.uint8)
    coverage[top : top + height, left : left + width] = draw_symbol(rng, symbol, module_px, plain=plain)
    if digits:
        draw_ean_digits(coverage, symbol, (left, top), module_px)
    box = (left, top, left + width, top + height)
    if kind == "label":
        keep = (
            box[0] - int(quiet[0]),
            box[1] - int(quiet[1]),
            box[2] + int(quiet[2]),
            box[3] + int(quiet[3]),
        )
        _surround(rng, coverage, keep)
    if surface_luminance is not None:
        ink = _surface_ink(rng, surface_luminance)
        return Print(_ink_only(coverage, ink, rng.uniform(*DIRECT_OPACITY)), box, symbol)
    return Print(_colour(rng, coverage, symbol, box, kind, plain), box, symbol)


def _margins(
    rng: Rng, kind: str, size_px: NDArray[np.int64], quiet: NDArray[np.int64], max_px: int
) -> NDArray[np.int64]:
    """Left, top, right, bottom margins beyond the quiet zone in pixels."""
    height = float(min(size_px[1], size_px[0]))
    if kind == "screen":
        margins = np.full(4, rng.uniform(*SCREEN_BEZEL) * height)
    elif kind == "label":
        margins = rng.uniform(*LABEL_MARGIN, 4) * height * (rng.random(4) < 0.6)
    else:
        return np.zeros(4, np.int64)
    room = max_px - float((size_px + quiet[:2] + quiet[2:]).max())
    total = max(margins[0] + margins[2], margins[1] + margins[3], 1.0)
    return (margins * np.clip(room / total, 0, 1)).astype(np.int64)


def _surround(rng: Rng, coverage: Image, keep: tuple[int, int, int, int]) -> None:
    """Print text, rules and a border around `keep` (x0, y0, x1, y1), in place."""
    x0, y0, x1, y1 = keep
    height, width = coverage.shape
    for band in (coverage[:y0], coverage[y1:], coverage[y0:y1, :x0], coverage[y0:y1, x1:]):
        if min(band.shape) >= 8 and rng.random() < 0.8:
            fill_with_text(rng, band)
    if rng.random() < 0.2 and min(x0, y0, width - x1, height - y1) > 4:
        cv2.rectangle(coverage, (1, 1), (width - 2, height - 2), 255, max(1, min(x0, y0) // 12))


def fill_with_text(rng: Rng, band: Image, value: int = 255) -> None:
    """Fill `band` uint8 [h, w] with lines of text of one size, in place."""
    height, width = band.shape[:2]
    capital = float(np.clip(np.exp(rng.uniform(np.log(5), np.log(40))), 5, height * 0.7))
    pitch = capital * rng.uniform(1.4, 2.2)
    y = capital * 1.2
    while y < height - capital * 0.1:
        text = random_text(rng, int(rng.integers(3, max(4, int(width / capital)) + 1)))
        indent = int(rng.integers(2, max(3, width // 6)))
        draw_line_of_text(rng, band, text, (indent, int(y)), capital, value)
        y += pitch
        if rng.random() < 0.08:
            cv2.line(band, (2, int(y - capital * 1.2)), (width - 3, int(y - capital * 1.2)), value, 1)


def _colour(rng: Rng, coverage: Image, symbol: Symbol, box: tuple[int, int, int, int], kind: str, plain: bool) -> Image:
    """Ink coverage [h, w] to premultiplied BGRA [h, w, 4]."""
    ink, paper = ink_and_paper(rng)
    if plain:
        ink, paper = np.zeros(3), np.full(3, 255.0)
    share = np.arange(256)[:, None] / 255
    table = np.round(paper + (ink - paper) * share).astype(np.uint8)[None]  # [1, 256, 3]
    colour = cv2.LUT(cv2.cvtColor(coverage, cv2.COLOR_GRAY2BGR), table)
    if symbol.label == QR and not plain and rng.random() < LOGO_PROBABILITY and symbol.size_modules[0] >= 25:
        draw_logo(rng, colour, box, ink)
    if not plain:
        _texture(rng, colour, coverage, ink.mean() < paper.mean())
    if kind == "screen":
        _draw_bezel(rng, colour, box)
    return cv2.cvtColor(colour, cv2.COLOR_BGR2BGRA)


def _ink_only(coverage: Image, ink: NDArray[np.float64], opacity: float) -> Image:
    """Ink coverage [h, w] to premultiplied BGRA [h, w, 4] that is clear where there is no ink."""
    share = np.arange(256)[:, None] / 255 * opacity
    table = np.round(share * np.append(ink, 255.0)).astype(np.uint8)[None]  # [1, 256, 4]
    return cv2.LUT(cv2.merge([coverage] * 4), table)


def _texture(rng: Rng, colour: Image, coverage: Image, dark_ink: bool) -> None:
    """Uneven paper, and at times a gradient of ink colours, in place."""
    height, width = coverage.shape
    if dark_ink and rng.random() < GRADIENT_INK_PROBABILITY:
        corners = rng.integers(0, 130, (2, 2, 3)).astype(np.uint8)
        tint = cv2.resize(corners, (width, height), interpolation=cv2.INTER_LINEAR)
        np.copyto(colour, cv2.max(colour, cv2.bitwise_and(tint, cv2.cvtColor(coverage, cv2.COLOR_GRAY2BGR))))
    amplitude = rng.uniform(*PAPER_NOISE)
    grid = int(rng.integers(4, 48))
    shade = np.clip((1 - amplitude * np.abs(rng.normal(size=(grid, grid)))) * 255, 0, 255).astype(np.uint8)
    shade = cv2.resize(shade, (width, height), interpolation=cv2.INTER_LINEAR)
    cv2.multiply(colour, cv2.cvtColor(shade, cv2.COLOR_GRAY2BGR), colour, 1 / 255)


def _draw_bezel(rng: Rng, colour: Image, box: tuple[int, int, int, int]) -> None:
    """A dark frame around a lit panel, with rows of pixels faintly visible, in place."""
    height, width = colour.shape[:2]
    thickness = max(1, int(min(box[0], box[1]) * rng.uniform(0.3, 0.7)))
    bezel = tuple(int(c) for c in rng.integers(5, 60, 3))
    cv2.rectangle(colour, (0, 0), (width - 1, height - 1), bezel, 2 * thickness - 1)
    lines = colour[:: int(rng.integers(2, 5))]
    lines[:] = cv2.multiply(lines, (rng.uniform(0.85, 1.0),) * 4)
