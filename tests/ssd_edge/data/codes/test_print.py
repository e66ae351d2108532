"""Prints: ink, layouts and the box of the symbol."""

import numpy as np

from ssd_edge.data.codes.print import LAYOUTS, ink_and_paper, make_print
from ssd_edge.data.codes.symbols import random_symbol


def test_box_has_no_quiet_zone() -> None:
    rng = np.random.default_rng(0)
    symbol = random_symbol(rng, 0)
    columns, rows = symbol.size_modules
    item = make_print(rng, symbol, 4, plain=True)
    left, top, right, bottom = item.symbol_box
    assert (right - left, bottom - top) == (4 * columns, 4 * rows)
    dark = np.argwhere(item.bgra[..., 0] < 128)
    assert dark.min(0).tolist() == [top, left]  # a finder pattern starts in the corner
    assert (dark.max(0) + 1).tolist() == [
        bottom,
        right,
    ]  # it has one at the lower left and the upper right too


def test_ink_stands_out_from_paper() -> None:
    rng = np.random.default_rng(0)
    luma = np.array([0.114, 0.587, 0.299])
    contrasts = [abs((ink - paper) @ luma) for ink, paper in (ink_and_paper(rng) for _ in range(300))]
    assert min(contrasts) >= 49


def test_every_layout_is_drawn_whole() -> None:
    rng = np.random.default_rng(0)
    for label in range(5):
        for surface in (None, 40.0, 200.0):
            for _ in range(2 * len(LAYOUTS)):
                item = make_print(rng, random_symbol(rng, label), 5, surface_luminance=surface)
                height, width = item.bgra.shape[:2]
                x0, y0, x1, y1 = item.symbol_box
                assert 0 <= x0 < x1 <= width
                assert 0 <= y0 < y1 <= height
                assert (item.bgra[..., :3] <= item.bgra[..., 3:]).all()  # premultiplied
