"""`runtime.preprocess` on the GPU, from BGR and from NV12: launches of the kernels in kernels.cu.

Nothing here waits for the GPU or allocates, so all of it can be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssd_edge.images import ImageError
from ssd_edge.runtime.colours import BT601, YuvColours
from ssd_edge.runtime.cuda.base import Stream
from ssd_edge.runtime.cuda.kernels import i32, u64

PIXEL_BLOCK = (32, 8)  # threads: a warp reads and writes along a row


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


def preprocess_nv12(
    stream: Stream,
    kernels: Mapping[str, Any],
    luma: int,
    luma_pitch: int,
    chroma: int,
    chroma_pitch: int,
    frame_hw: tuple[int, int],
    out: int,
    size_hw: tuple[int, int],
    *,
    colours: YuvColours = BT601,
) -> None:
    """The same from NV12, as video decoders give it.

    As `preprocess` of `cv2.cvtColor(…, cv2.COLOR_YUV2BGR_NV12)` with the default colours: each 2×2 pixels have one
    chroma (nearest neighbour), and colours are rounded to uint8 before they are blended.

    Args:
        luma: address of uint8 [H, W], rows `luma_pitch` bytes apart.
        chroma: address of uint8 [H/2, W/2, 2], u then v, rows `chroma_pitch` bytes apart.
        frame_hw: (H, W) in pixels, both even.

    Raises:
        ImageError: the frame has no pixels, an odd side, or rows that overlap.
    """
    check_nv12_size(frame_hw)
    _check_rows("luma", frame_hw, frame_hw[1], luma_pitch)
    _check_rows("chroma", frame_hw, frame_hw[1], chroma_pitch)
    factors = (colours.black, colours.luma, colours.u_to_b, colours.u_to_g, colours.v_to_g, colours.v_to_r)
    planes = u64(luma, luma_pitch, chroma, chroma_pitch)
    arguments = [*planes, *i32(*frame_hw, *factors), *u64(out), *i32(*size_hw)]
    stream.launch(kernels["preprocess_nv12"], _pixel_grid(size_hw), (*PIXEL_BLOCK, 1), arguments)


def check_nv12_size(frame_hw: tuple[int, int]) -> None:
    """
    Raises:
        ImageError: a side is odd, so that its last pixels have no chroma.
    """
    height, width = frame_hw
    if height % 2 or width % 2:
        raise ImageError(f"an NV12 frame of {width}×{height}; its sides have to be even: crop the frame, or take BGR")


def _pixel_grid(size_hw: tuple[int, int]) -> tuple[int, int, int]:
    return -(-size_hw[1] // PIXEL_BLOCK[0]), -(-size_hw[0] // PIXEL_BLOCK[1]), 1


def _check_rows(name: str, frame_hw: tuple[int, int], row_bytes: int, pitch: int) -> None:
    if min(frame_hw) < 1:
        raise ImageError(f"a frame of {frame_hw[1]}×{frame_hw[0]}; expected at least one pixel")
    if pitch < row_bytes:
        raise ImageError(f"{name} with rows {pitch} bytes apart; expected at least {row_bytes}, which a row has")
