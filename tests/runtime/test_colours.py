"""What the numbers of YUV mean, against the values that the standards print for pure colours."""

import numpy as np
import pytest

from ssd_edge.runtime.colours import (
    BT601,
    BT601_FULL,
    BT709,
    BT709_FULL,
    BT2020,
    BT2020_FULL,
    YuvColours,
    colours_of_ffmpeg,
)

RGB = {"black": (0, 0, 0), "white": (255,) * 3, "red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


@pytest.mark.parametrize(
    ("colours", "red", "green", "blue"),
    [
        (BT601, (81, 90, 240), (145, 54, 34), (41, 240, 110)),
        (BT709, (63, 102, 240), (173, 42, 26), (32, 240, 118)),
        (BT2020, (74, 97, 240), (164, 47, 25), (29, 240, 119)),
        (BT601_FULL, (76, 85, 255), (150, 44, 21), (29, 255, 107)),
        (BT709_FULL, (54, 99, 255), (182, 30, 12), (18, 255, 116)),
        (BT2020_FULL, (67, 92, 255), (173, 36, 11), (15, 255, 118)),
    ],
)
def test_pure_colours(colours: YuvColours, red: tuple[int, ...], green: tuple[int, ...], blue: tuple[int, ...]) -> None:
    white = 255 if colours.black == 0 else 235
    yuv = {"black": (colours.black, 128, 128), "white": (white, 128, 128), "red": red, "green": green, "blue": blue}
    for name, numbers in yuv.items():
        found = colours.to_rgb @ (*numbers, 1)
        assert np.clip(found, 0, 255) == pytest.approx(RGB[name], abs=2.5), name  # a step of chroma is 2
        assert (colours.to_bgr @ (*numbers, 1))[::-1] == pytest.approx(found)


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize(
    ("colour_space", "limited", "full"),
    [
        (1, BT709, BT709_FULL),
        *((number, BT601, BT601_FULL) for number in (2, 4, 5, 6, 7)),  # unspecified, FCC, 470BG, SMPTE 170M and 240M
        (9, BT2020, BT2020_FULL),
        (10, BT2020, BT2020_FULL),
    ],
)
def test_the_numbers_of_ffmpeg(colour_space: int, limited: YuvColours, full: YuvColours, full_range: bool) -> None:
    assert colours_of_ffmpeg(colour_space, 2 if full_range else 1) == (full if full_range else limited)
    assert full_range or colours_of_ffmpeg(colour_space, 0) == limited
