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
        chroma: u and v, uint8 [h, w] each (I420, 4:2:2, 4:4:4); or one uint8 [h, w, 2] of both, interleaved (NV12).
            They cover the same picture, in each direction with as many samples as luma has, or half as many, rounded
            up; in 4:2:0 with half as many in both.
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
        fits = self.luma.ndim == 2 and self.luma.size > 0 and (interleaved or planar)
        if not fits or any(
            side not in (whole, -(-whole // 2)) for side, whole in zip(shapes[0], self.luma.shape, strict=False)
        ):
            raise ValueError(
                f"luma of shape {self.luma.shape} and chroma of {shapes}; expected [H, W] with at least one pixel, and "
                "two of [h, w] or one of [h, w, 2], where h and w are as many as H and W, or half as many, rounded up"
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

    def bgr(self, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """uint8 [H, W, 3]. Pixels that share a chroma get the same one (nearest neighbour), as OpenCV has it.

        Args:
            out: of that shape, contiguous, to be written to; made when None.
        """
        if self.is_420 and self.colours == BT601:
            uv = self.chroma[0] if len(self.chroma) == 1 else cv2.merge(self.chroma)
            return np.asarray(cv2.cvtColorTwoPlane(self.luma, uv, cv2.COLOR_YUV2BGR_NV12, out), np.uint8)
        planar = self.chroma if len(self.chroma) == 2 else cv2.split(self.chroma[0])
        whole = [_repeated(plane, self.size_hw) for plane in planar]
        luma = np.maximum(self.luma, np.uint8(self.colours.black)) if self.colours.black else self.luma
        return np.asarray(cv2.transform(cv2.merge([luma, *whole]), self.colours.to_bgr, out), np.uint8)

    def turned(self, degrees: int) -> YuvPlanes:
        """Turned counter-clockwise by a multiple of 90°."""
        turns = round(degrees / 90) % 4
        if turns == 0:
            return self
        luma, *chroma = (np.ascontiguousarray(np.rot90(plane, turns)) for plane in (self.luma, *self.chroma))
        return YuvPlanes(luma, tuple(chroma), self.colours)


def _repeated(plane: NDArray[np.uint8], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """uint8 [h, w] -> [H, W], nearest neighbour, where a sample stands for one or two pixels in each direction.

    Many times faster than OpenCV's `INTER_NEAREST`.
    """
    height, width = size_hw
    if plane.shape[1] < width:
        plane = np.asarray(cv2.merge([plane, plane]), np.uint8).reshape(len(plane), -1)
    if len(plane) < height:
        plane = np.repeat(plane, 2, axis=0)
    return plane[:height, :width]


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


def bytes_of(pixels: Pixels) -> int:
    """What a picture takes, about: on a GPU, as NV12."""
    if isinstance(pixels, YuvPlanes):
        return pixels.luma.size + sum(plane.size for plane in pixels.chroma)
    height, width = size_hw_of(pixels)
    return max(1, height * width * (3 if isinstance(pixels, np.ndarray) else 2))


def in_memory(pixels: Pixels) -> NDArray[np.uint8] | YuvPlanes:
    """The same in the processor's memory."""
    return pixels.download() if isinstance(pixels, GpuPicture) else pixels
