"""Short videos: of noise, and of pictures with colours that tell conversions apart."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
import cv2
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray


def write_video(path: Path, frames: int = 30) -> Path:
    """64×48, 20 FPS; noise, so that its size is in the frames and not in the headers."""
    rng = np.random.default_rng(0)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 20.0, (64, 48))
    for _ in range(frames):
        writer.write(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    writer.release()
    return path


def ramp(size_hw: tuple[int, int] = (48, 64), shift: int = 0) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] BGR: another colour in each corner, all between them, and a red square in the upper left."""
    height, width = size_hw
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([x * 255 // width, y * 255 // height, 255 - x * 255 // width], -1).astype(np.uint8)
    image[height // 8 : height // 4, width // 8 + shift : width // 4 + shift] = (0, 0, 255)
    return image


def encode(
    target: Path | BinaryIO,
    pictures: Sequence[NDArray[np.uint8]],
    *,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    times_ms: Sequence[int] | None = None,
    rate: int = 10,
    colour_space: int | None = None,
    colour_range: int | None = None,
    options: dict[str, str] | None = None,
    container: dict[str, Any] | None = None,
) -> Path | BinaryIO:
    """Encode BGR pictures of one size.

    Args:
        times_ms: when each is shown; else as the rate says.
        colour_space, colour_range: FFmpeg's numbers for them.
        container: further arguments of `av.open`.
    """
    with av.open(str(target) if isinstance(target, Path) else target, "w", **(container or {})) as out:
        stream = out.add_stream(codec, rate=rate, options=options or {})
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixel_format
        if colour_space is not None:
            stream.codec_context.colorspace = colour_space
        if colour_range is not None:
            stream.codec_context.color_range = colour_range
        if times_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, picture in enumerate(pictures):
            frame = as_yuv(picture, colour_space, colour_range).reformat(format=pixel_format)
            if times_ms is not None:
                frame.pts, frame.time_base = times_ms[number], Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return target


def as_yuv(picture: NDArray[np.uint8], colour_space: int | None, colour_range: int | None) -> av.VideoFrame:
    """A BGR picture by the definition of these colours (ITU-R BT.709, BT.2020); as it is where they are not given."""
    if colour_space is None and colour_range is None:
        return av.VideoFrame.from_ndarray(picture, format="bgr24")
    red, blue = {1: (0.2126, 0.0722), 9: (0.2627, 0.0593)}.get(colour_space or 0, (0.299, 0.114))
    b, g, r = (plane / 255.0 for plane in np.moveaxis(picture, 2, 0))
    y = red * r + (1 - red - blue) * g + blue * b
    black, luma, chroma = (0, 255, 255) if colour_range == 2 else (16, 219, 224)
    planes = black + luma * y, 128 + chroma * (b - y) / (2 - 2 * blue), 128 + chroma * (r - y) / (2 - 2 * red)
    frame = av.VideoFrame(picture.shape[1], picture.shape[0], "yuv444p")
    for plane, values in zip(frame.planes, planes, strict=True):
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
        rows[:, : plane.width] = np.clip(np.rint(values), 0, 255)
    frame.colorspace, frame.color_range = colour_space or 2, colour_range or 1
    return frame
