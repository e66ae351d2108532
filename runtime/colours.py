"""`YuvColours`: what the numbers of a YUV picture mean, as video declares it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class YuvColours:
    """How YUV becomes RGB, in fixed point: integers of `POINT` bits behind the point.

    Attributes:
        black: the luma of black; luma below it is black too.
        luma, u_to_b, u_to_g, v_to_g, v_to_r: factors of luma − black, and of u − 128 and v − 128.
    """

    black: int
    luma: int
    u_to_b: int
    u_to_g: int
    v_to_g: int
    v_to_r: int

    POINT = 20

    @classmethod
    def of(cls, red: float, blue: float, *, full_range: bool = False) -> YuvColours:
        """From the weights of red and blue in luma (ITU-R BT.601: 0.299, 0.114; BT.709: 0.2126, 0.0722).

        Args:
            full_range: luma and chroma take all of 0–255 (JPEG); else 16–235 and 16–240 (video).
        """
        luma, chroma = (1.0, 1.0) if full_range else (255 / 219, 255 / 224)
        green = 1 - red - blue
        factors = (
            luma,
            2 * (1 - blue) * chroma,
            -2 * (1 - blue) * blue / green * chroma,
            -2 * (1 - red) * red / green * chroma,
            2 * (1 - red) * chroma,
        )
        return cls(0 if full_range else 16, *(round(factor * 2**cls.POINT) for factor in factors))

    @cached_property
    def to_rgb(self) -> NDArray[np.float64]:
        """float64 [3, 4]: red, green and blue from y, u, v and 1."""
        rows = (self.luma, 0, self.v_to_r), (self.luma, self.u_to_g, self.v_to_g), (self.luma, self.u_to_b, 0)
        factors = np.array(rows, np.float64) / 2**self.POINT
        return np.column_stack((factors, -factors @ (self.black, 128, 128)))

    @cached_property
    def to_bgr(self) -> NDArray[np.float64]:
        """float64 [3, 4]: blue, green and red from y, u, v and 1."""
        return np.ascontiguousarray(self.to_rgb[::-1])


# The factors of cv2.COLOR_YUV2BGR_NV12, which are BT.601's to three digits (color_yuv.simd.hpp).
BT601 = YuvColours(16, 1220542, 2116026, -409993, -852492, 1673527)
BT601_FULL = YuvColours.of(0.299, 0.114, full_range=True)
BT709 = YuvColours.of(0.2126, 0.0722)
BT709_FULL = YuvColours.of(0.2126, 0.0722, full_range=True)
BT2020 = YuvColours.of(0.2627, 0.0593)
BT2020_FULL = YuvColours.of(0.2627, 0.0593, full_range=True)

# AVColorSpace of FFmpeg's libavutil/pixfmt.h: BT709, BT2020_NCL, BT2020_CL. The others are BT.601's, or are taken for
# it as libswscale takes them: unspecified, FCC, BT470BG, SMPTE170M, SMPTE240M.
_MATRICES = {1: (BT709, BT709_FULL), 9: (BT2020, BT2020_FULL), 10: (BT2020, BT2020_FULL)}
_FULL_RANGE = 2  # AVCOL_RANGE_JPEG


def colours_of_ffmpeg(colour_space: int, colour_range: int) -> YuvColours:
    """The colours of a frame of FFmpeg, by its `AVColorSpace` and `AVColorRange`."""
    limited, full = _MATRICES.get(colour_space, (BT601, BT601_FULL))
    return full if colour_range == _FULL_RANGE else limited
