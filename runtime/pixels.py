"""`Pixels`: the picture of a frame as its decoder gives it, in YUV planes, BGR, or on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ssd_edge.runtime.colours import BT601, YuvColours


@dataclass(frozen=True, eq=False)
class YuvPlanes:
    """A picture of 8 bits in YUV, in the processor's memory; rows may lie any number of bytes apart.

    Attributes:
        luma: uint8 [H, W].
        chroma: u and v, uint8 [h, w] each (I420, 4:2:2, 4:4:4); or one uint8 [h, w, 2] with both in turns (NV12). They
            cover the same picture with fewer samples, half as many in each direction for 4:2:0.
        colours: what the numbers mean.

    Raises:
        ValueError: the planes do not fit each other.
    """

    luma: NDArray[np.uint8]
    chroma: tuple[NDArray[np.uint8], ...]
    colours: YuvColours = BT601

    def __post_init__(self) -> None:
        shapes = [plane.shape for plane in self.chroma]
        interleaved = len(shapes) == 1 and len(shapes[0]) == 3 and shapes[0][2] == 2
        planar = len(shapes) == 2 and len(shapes[0]) == 2 and shapes[0] == shapes[1]
        if self.luma.ndim != 2 or not self.luma.size or not (interleaved or planar) or 0 in shapes[0]:
            raise ValueError(
                f"luma of shape {self.luma.shape} and chroma of {shapes}; expected [H, W], and two of [h, w] or one of "
                "[h, w, 2], with at least one pixel each"
            )

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.luma.shape
        return height, width

    @property
    def is_420(self) -> bool:
        """Each 2×2 pixels have one chroma, and there is no pixel left over: what NV12 can hold."""
        height, width = self.luma.shape
        return self.chroma[0].shape[:2] == (height / 2, width / 2)

    def bgr(self) -> NDArray[np.uint8]:
        """uint8 [H, W, 3]. Pixels that share a chroma get the same one (nearest neighbour), as OpenCV has it."""
        height, width = self.luma.shape
        if self.is_420 and self.colours == BT601:
            uv = self.chroma[0] if len(self.chroma) == 1 else cv2.merge(self.chroma)
            return np.asarray(cv2.cvtColorTwoPlane(self.luma, uv, cv2.COLOR_YUV2BGR_NV12), np.uint8)
        whole = [cv2.resize(plane, (width, height), interpolation=cv2.INTER_NEAREST) for plane in self.chroma]
        return np.asarray(cv2.transform(cv2.merge([self.luma, *whole]), self.colours.to_bgr), np.uint8)

    def turned(self, degrees: int) -> YuvPlanes:
        """Turned counter-clockwise by a multiple of 90°."""
        turns = round(degrees / 90) % 4
        if turns == 0:
            return self
        luma, *chroma = (np.ascontiguousarray(np.rot90(plane, turns)) for plane in (self.luma, *self.chroma))
        return YuvPlanes(luma, tuple(chroma), self.colours)


@dataclass(frozen=True, eq=False)
class GpuPicture:
    """A picture in a GPU's memory, as a decoder there gives it.

    Attributes:
        surface: what `cuda.device_frames` takes; its memory stays as it is while this object is held.
        size_hw: height and width in pixels.
        download: gives the picture in the processor's memory.
    """

    surface: Any
    size_hw: tuple[int, int]
    download: Callable[[], YuvPlanes | NDArray[np.uint8]]

    def bgr(self) -> NDArray[np.uint8]:
        """uint8 [H, W, 3], by way of a copy to the processor's memory."""
        return to_bgr(self.download())


Pixels = NDArray[np.uint8] | YuvPlanes | GpuPicture  # an array is BGR, uint8 [H, W, 3]


def to_bgr(pixels: Pixels) -> NDArray[np.uint8]:
    """uint8 [H, W, 3]; the array itself where it is BGR already."""
    return pixels if isinstance(pixels, np.ndarray) else pixels.bgr()


def size_hw_of(pixels: Pixels) -> tuple[int, int]:
    """Height and width in pixels."""
    if not isinstance(pixels, np.ndarray):
        return pixels.size_hw
    height, width = pixels.shape[:2]
    return height, width


def in_memory(pixels: Pixels) -> NDArray[np.uint8] | YuvPlanes:
    """The same in the processor's memory."""
    return pixels.download() if isinstance(pixels, GpuPicture) else pixels
