"""Random symbols of the five `codes` classes, and how they are printed: the part that knows what a code is.

zxing-cpp makes the modules; everything here is drawn flat. `scenes.py` puts it into a scene.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import zxingcpp
from numpy.typing import NDArray

CLASS_NAMES = ("qr_code", "data_matrix", "aztec", "pdf417", "ean13")
CATEGORY_IDS = (1, 2, 3, 4, 5)
FORMATS = (
    zxingcpp.BarcodeFormat.QRCode,
    zxingcpp.BarcodeFormat.DataMatrix,
    zxingcpp.BarcodeFormat.Aztec,
    zxingcpp.BarcodeFormat.PDF417,
    zxingcpp.BarcodeFormat.EAN13,
)  # by label
QR, DATA_MATRIX, AZTEC, PDF417, EAN13 = range(5)

# Content: most characters a symbol carries; the length is log-uniform from the least.
CONTENT_LENGTH = {QR: (4, 1000), DATA_MATRIX: (2, 350), AZTEC: (2, 500), PDF417: (6, 260)}
URL_PROBABILITY = 0.3
QR_EC_LEVELS = ("L", "M", "Q", "H")
AZTEC_EC_LEVELS = ("10%", "23%", "36%", "50%")
PDF417_EC_LEVELS = ("1", "2", "3", "4", "5")
PDF417_COLUMNS = (1, 10)  # data columns
PDF417_MAX_ROWS = 48
PDF417_ROW_HEIGHT = (2, 5)  # modules; the standard asks for at least 3
DATA_MATRIX_RECTANGLES = {25: 4, 26: 8, 27: 14, 28: 20, 29: 30, 30: 46}  # version: characters that fit
RECTANGLE_PROBABILITY = 0.1
EAN_BAR_HEIGHT = (28, 75)  # modules; 69 is the nominal one
EAN_GUARD_DROP = 5  # modules by which the guard bars are longer
EAN_TEXT_PROBABILITY = 0.75
UPC_PROBABILITY = 0.3  # an EAN-13 that starts with 0 is printed as a UPC-A

# Quiet zone in modules (left and right, top and bottom) as the standards ask for it.
QUIET_ZONE = {QR: (4, 4), DATA_MATRIX: (1, 1), AZTEC: (1, 1), PDF417: (2, 2), EAN13: (9, 1)}

DOT_PROBABILITY = {QR: 0.07, DATA_MATRIX: 0.15}
DOT_DIAMETER = (0.7, 1.0)  # of a module
ROUND_FINDER_PROBABILITY = 0.3  # of QR codes in dots
SOFT_PROBABILITY = 0.3  # rounded corners, ink spread and ink loss
SOFT_SIGMA = (0.15, 0.32)  # of a module: how round
INK_SPREAD = (-0.16, 0.16)  # of the coverage threshold
LOGO_PROBABILITY = 0.15
LOGO_SIDE = (0.14, 0.26)  # of a QR code's side

_ALPHABETS = tuple(
    np.frombuffer(text, np.uint8)
    for text in (
        b"0123456789",
        b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-./ ",
        b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,:;-_/?=&",
    )
)
_FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX, cv2.FONT_HERSHEY_PLAIN)

Rng = np.random.Generator
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Symbol:
    """One symbol: `modules` uint8 [rows, columns], 1 = dark, without quiet zone; square modules."""

    label: int
    text: str
    modules: NDArray[np.uint8]
    upc: bool = False
    human_readable: bool = False

    @property
    def size_modules(self) -> tuple[int, int]:
        """(width, height) in modules."""
        return self.modules.shape[1], self.modules.shape[0]


def random_text(rng: Rng, length: int) -> str:
    """`length` characters from digits, upper case or mixed text."""
    letters = _ALPHABETS[int(rng.integers(len(_ALPHABETS)))]
    return bytes(letters[rng.integers(0, len(letters), length)]).decode("ascii")


def random_symbol(rng: Rng, label: int) -> Symbol:
    """A symbol of class `label` with random content, size and error correction."""
    return _MAKERS[label](rng)


def _content(rng: Rng, label: int) -> str:
    low, high = CONTENT_LENGTH[label]
    length = int(np.exp(rng.uniform(np.log(low), np.log(high))))
    text = random_text(rng, length)
    return "https://" + text.replace(" ", "") if rng.random() < URL_PROBABILITY and length > 8 else text


def _modules(text: str, label: int, **options: object) -> NDArray[np.uint8]:
    barcode = zxingcpp.create_barcode(text, FORMATS[label], **options)
    luminance = np.asarray(barcode.to_image(scale=1, add_quiet_zones=False))  # [rows, columns], 0 = dark
    return (luminance < 128).astype(np.uint8)


def _qr(rng: Rng) -> Symbol:
    text = _content(rng, QR)
    return Symbol(QR, text, _modules(text, QR, ec_level=str(rng.choice(QR_EC_LEVELS))))


def _data_matrix(rng: Rng) -> Symbol:
    if rng.random() < RECTANGLE_PROBABILITY:
        version = int(rng.choice(list(DATA_MATRIX_RECTANGLES)))
        text = random_text(rng, int(rng.integers(2, DATA_MATRIX_RECTANGLES[version] + 1))).upper()
        return Symbol(DATA_MATRIX, text, _modules(text, DATA_MATRIX, version=version))
    text = _content(rng, DATA_MATRIX)
    return Symbol(DATA_MATRIX, text, _modules(text, DATA_MATRIX, force_square=True))


def _aztec(rng: Rng) -> Symbol:
    text = _content(rng, AZTEC)
    return Symbol(AZTEC, text, _modules(text, AZTEC, ec_level=str(rng.choice(AZTEC_EC_LEVELS))))


def _pdf417(rng: Rng) -> Symbol:
    text = _content(rng, PDF417)
    level = str(rng.choice(PDF417_EC_LEVELS))
    columns = int(rng.integers(PDF417_COLUMNS[0], PDF417_COLUMNS[1] + 1))
    rows = _modules(text, PDF417, columns=columns, ec_level=level)[::3]  # zxing-cpp draws a row 3 modules high
    while len(rows) > PDF417_MAX_ROWS:
        columns += 3
        rows = _modules(text, PDF417, columns=columns, ec_level=level)[::3]
    row_height = int(rng.integers(PDF417_ROW_HEIGHT[0], PDF417_ROW_HEIGHT[1] + 1))
    return Symbol(PDF417, text, np.repeat(rows, row_height, axis=0))


def _ean13(rng: Rng) -> Symbol:
    upc = bool(rng.random() < UPC_PROBABILITY)
    digits = ("0" if upc else str(rng.integers(1, 10))) + "".join(map(str, rng.integers(0, 10, 11)))
    barcode = zxingcpp.create_barcode(digits, FORMATS[EAN13])
    lines = (np.asarray(barcode.to_image(scale=1, add_quiet_zones=False)) < 128).astype(np.uint8)
    human_readable = bool(rng.random() < EAN_TEXT_PROBABILITY)
    height = int(rng.integers(EAN_BAR_HEIGHT[0], EAN_BAR_HEIGHT[1] + 1))
    guards = np.repeat(lines[-1:], EAN_GUARD_DROP if human_readable else 0, axis=0)
    bars = np.repeat(lines[:1], height, axis=0)
    return Symbol(EAN13, barcode.text, np.concatenate([bars, guards]), upc, human_readable)


_MAKERS: tuple[Callable[[Rng], Symbol], ...] = (_qr, _data_matrix, _aztec, _pdf417, _ean13)


def draw_symbol(rng: Rng, symbol: Symbol, module_px: int, *, plain: bool = False) -> Image:
    """The symbol as ink coverage, uint8 [rows × module_px, columns × module_px], 255 = ink.

    Modules are crisp squares when `plain`; otherwise sometimes dots, rounded, spread or thin.
    """
    columns, rows = symbol.size_modules
    size = (columns * module_px, rows * module_px)
    coverage = cv2.resize(symbol.modules * np.uint8(255), size, interpolation=cv2.INTER_NEAREST)
    style = rng.random()
    if plain or module_px < 3:
        return coverage
    if style < DOT_PROBABILITY.get(symbol.label, 0.0):
        coverage = _as_dots(rng, symbol, coverage, module_px)
    elif rng.random() < SOFT_PROBABILITY:
        coverage = _soften(rng, coverage, module_px)
    return coverage


def _as_dots(rng: Rng, symbol: Symbol, coverage: Image, module_px: int) -> Image:
    """Dot-peened or dot-printed modules; a QR code keeps solid finder patterns, square or round."""
    columns, rows = symbol.size_modules
    centre = (module_px - 1) / 2
    y, x = np.mgrid[:module_px, :module_px]
    radius = rng.uniform(*DOT_DIAMETER) / 2 * module_px
    dot = np.clip((radius - np.hypot(x - centre, y - centre) + 0.5) * 255, 0, 255).astype(np.uint8)
    dots = cv2.min(coverage, np.tile(dot, (rows, columns)))
    if symbol.label == QR:
        finder = 7 * module_px
        is_round = rng.random() < ROUND_FINDER_PROBABILITY
        for corner in np.s_[:finder, :finder], np.s_[:finder, -finder:], np.s_[-finder:, :finder]:
            dots[corner] = _round_finder(module_px) if is_round else coverage[corner]
    return dots


def _round_finder(module_px: int) -> Image:
    """A QR finder pattern as a ring around a disc, uint8 [7 × module_px, 7 × module_px]."""
    finder = np.zeros((7 * module_px, 7 * module_px), np.uint8)
    centre = (7 * module_px // 2, 7 * module_px // 2)
    cv2.circle(finder, centre, 3 * module_px, 255, module_px, cv2.LINE_AA)
    cv2.circle(finder, centre, round(1.5 * module_px), 255, -1, cv2.LINE_AA)
    return finder


def _soften(rng: Rng, coverage: Image, module_px: int) -> Image:
    """Rounded corners and ink spread: blur, then a steep threshold off the middle."""
    sigma = rng.uniform(*SOFT_SIGMA) * module_px
    threshold = 128 * (1 + rng.uniform(*INK_SPREAD))
    steep = np.clip((np.arange(256) - threshold) * max(2.0, sigma * 1.5) + 128, 0, 255).astype(np.uint8)
    return cv2.LUT(cv2.GaussianBlur(coverage, (0, 0), sigma), steep)


def draw_logo(rng: Rng, print_bgr: Image, box: tuple[int, int, int, int], ink_bgr: NDArray[np.float64]) -> None:
    """Draw a logo in the middle of `box` (x0, y0, x1, y1 of a QR code) into `print_bgr`, in place."""
    x0, y0, x1, y1 = box
    half = max(2, int((x1 - x0) * rng.uniform(*LOGO_SIDE) / 2))
    cx, cy = (x0 + x1) // 2, (y0 + y1) // 2
    colour = tuple(int(c) for c in rng.integers(0, 256, 3))
    border = max(1, half // 6)
    if rng.random() < 0.5:
        cv2.circle(print_bgr, (cx, cy), half + border, (255, 255, 255), -1, cv2.LINE_AA)
        cv2.circle(print_bgr, (cx, cy), half, colour, -1, cv2.LINE_AA)
    else:
        cv2.rectangle(
            print_bgr,
            (cx - half - border, cy - half - border),
            (cx + half + border, cy + half + border),
            (255,) * 3,
            -1,
        )
        cv2.rectangle(print_bgr, (cx - half, cy - half), (cx + half, cy + half), colour, -1)
    letter = chr(int(rng.integers(ord("A"), ord("Z") + 1)))
    text_colour = (255, 255, 255) if sum(colour) < 450 else tuple(int(c) for c in ink_bgr)
    scale = half / 16
    thickness = max(1, half // 6)
    (width, height), _ = cv2.getTextSize(letter, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
    origin = (cx - width // 2, cy + height // 2)
    cv2.putText(print_bgr, letter, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, text_colour, thickness, cv2.LINE_AA)


def draw_line_of_text(
    rng: Rng,
    canvas: Image,
    text: str,
    origin_xy: tuple[int, int],
    height_px: float,
    value: int | tuple[int, ...] = 255,
) -> None:
    """Write `text` from its baseline's left end `origin_xy`, capitals `height_px` high, in place."""
    font = _FONTS[int(rng.integers(len(_FONTS)))]
    scale = height_px / (10 if font == cv2.FONT_HERSHEY_PLAIN else 21)
    thickness = max(1, round(height_px * rng.uniform(0.06, 0.2)))
    cv2.putText(canvas, text, origin_xy, font, scale, value, thickness, cv2.LINE_AA)


def draw_ean_digits(canvas: Image, symbol: Symbol, corner_xy: tuple[int, int], module_px: int) -> None:
    """Write the digits under an EAN-13 or UPC-A whose upper left corner lies at `corner_xy`, in place."""
    x0, y0 = corner_xy
    bars_bottom = y0 + (symbol.size_modules[1] - EAN_GUARD_DROP) * module_px
    cap = 6.5 * module_px  # digits fill the seven modules of their bar pattern
    groups = [(symbol.text[0], -9), (symbol.text[1:7], 4), (symbol.text[7:], 50)]
    if symbol.upc:
        groups = [(symbol.text[1], -9), (symbol.text[2:7], 8), (symbol.text[7:12], 50), (symbol.text[12], 97)]
    scale = cap / 21
    thickness = max(1, round(0.9 * module_px))
    baseline = int(bars_bottom + 8.5 * module_px)
    for digits, column in groups:
        for i, digit in enumerate(digits):
            x = round(x0 + (column + 7 * i) * module_px)
            cv2.putText(canvas, digit, (x, baseline), cv2.FONT_HERSHEY_SIMPLEX, scale, 255, thickness, cv2.LINE_AA)
