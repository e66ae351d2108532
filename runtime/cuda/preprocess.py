"""`runtime.preprocess` on the GPU, from BGR and from YUV: launches of the kernels in kernels.cu.

Nothing here waits for the GPU or allocates, so all of it can be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ssd_edge.images import ImageError
from ssd_edge.runtime.colours import BT601, YuvColours
from ssd_edge.runtime.cuda.base import Stream
from ssd_edge.runtime.cuda.kernels import i32, u64

PIXEL_BLOCK = (32, 8)  # threads: a warp reads and writes along a row


class Plane(NamedTuple):
    """Rows of a picture on the GPU, `pitch` bytes apart; height and width in samples."""

    address: int
    pitch: int
    height: int
    width: int


def preprocess_bgr(
    stream: Stream,
    kernels: Mapping[str, Any],
    frame: int,
    pitch: int,
    frame_hw: tuple[int, int],
    out: int,
    size_hw: tuple[int, int],
) -> None:
    """`runtime.preprocess.preprocess` on the GPU.

    Equal to OpenCV's own code, so within 1 level of every build of OpenCV: some take a processor's library instead.

    Args:
        kernels: of `Cuda.module`.
        frame: address of uint8 [H, W, 3] BGR, rows `pitch` bytes apart.
        frame_hw: (H, W) in pixels.
        out: address of uint8 [height, width, 3] RGB, contiguous: one image of the model's input.
        size_hw: (height, width) in pixels that the model takes.

    Raises:
        ImageError: the frame has no pixels, or rows that overlap.
    """
    _check_rows("frame", frame_hw, 3 * frame_hw[1], pitch)
    arguments = [*u64(frame, pitch), *i32(*frame_hw), *u64(out), *i32(*size_hw)]
    stream.launch(kernels["preprocess_bgr"], _pixel_grid(size_hw), (*PIXEL_BLOCK, 1), arguments)


def preprocess_yuv(
    stream: Stream,
    kernels: Mapping[str, Any],
    luma: Plane,
    chroma: Plane,
    out: int,
    size_hw: tuple[int, int],
    *,
    colours: YuvColours = BT601,
) -> None:
    """The same from YUV: as `preprocess_bgr` from `YuvPlanes.bgr`, pixels that share a chroma get the same one.

    Args:
        luma: uint8 [H, W].
        chroma: uint8 [h, w, 2], u then v: h is H or H/2, w is W or W/2, rounded up. [H/2, W/2, 2] in NV12, as video
            decoders give it.
        colours: what the numbers mean.

    Raises:
        ImageError: a plane has no pixels, or rows that overlap.
    """
    _check_rows("luma", luma[2:], luma.width, luma.pitch)
    _check_rows("chroma", chroma[2:], 2 * chroma.width, chroma.pitch)
    factors = (colours.black, colours.luma, colours.u_to_b, colours.u_to_g, colours.v_to_g, colours.v_to_r)
    planes = (argument for plane in (luma, chroma) for argument in (*u64(*plane[:2]), *i32(*plane[2:])))
    arguments = [*planes, *i32(*factors), *u64(out), *i32(*size_hw)]
    stream.launch(kernels["preprocess_yuv"], _pixel_grid(size_hw), (*PIXEL_BLOCK, 1), arguments)


def _pixel_grid(size_hw: tuple[int, int]) -> tuple[int, int, int]:
    return -(-size_hw[1] // PIXEL_BLOCK[0]), -(-size_hw[0] // PIXEL_BLOCK[1]), 1


def _check_rows(name: str, frame_hw: tuple[int, int], row_bytes: int, pitch: int) -> None:
    if min(frame_hw) < 1:
        raise ImageError(f"a frame of {frame_hw[1]}×{frame_hw[0]}; expected at least one pixel")
    if pitch < row_bytes:
        raise ImageError(f"{name} with rows {pitch} bytes apart; expected at least {row_bytes}, which a row has")
