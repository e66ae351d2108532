"""Image files and arrays as uint8 [H, W, 3] BGR, whatever they were before."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ssd_edge.errors import DatasetError, SsdEdgeError

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""Lower-case suffixes of the files that are looked for in a folder of images."""

JPEG_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")  # none of those that are part of entropy-coded data
JPEG_END = b"\xd9"


class ImageError(SsdEdgeError, ValueError):
    """An array that cannot be read as an image."""


def load_image(path: Path) -> NDArray[np.uint8]:
    """Read an image file as uint8 [H, W, 3] BGR.

    Grey, palette, CMYK, 16-bit and transparent images are converted, and the EXIF orientation is applied.

    Raises:
        DatasetError: the file is missing, cannot be read, or is no complete image.
    """
    try:
        encoded = Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: no possible name, such as one with a NUL
        reason = error.strerror if isinstance(error, OSError) else error
        raise DatasetError(f"cannot read image {path}: {reason}; check the path") from error
    try:
        with quiet_opencv():
            decoded = None if not encoded or is_cut_off_jpeg(encoded) else _decode(encoded)
    except cv2.error as error:  # such as more pixels than OpenCV takes
        raise DatasetError(f"cannot decode image {path}: {error.err}; replace or remove the file") from error
    if decoded is None:
        raise DatasetError(
            f"cannot decode image {path} ({len(encoded)} bytes): it is corrupt, cut off or no image; "
            "replace or remove the file"
        )
    try:
        return to_bgr8(decoded)
    except ImageError as error:
        raise DatasetError(f"cannot use image {path}: {error}") from error


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) in pixels of an image file, EXIF orientation applied.

    The whole image is decoded, so that a size is only given for a file that can be loaded.

    Raises:
        DatasetError: as `load_image`.
    """
    height, width, _ = load_image(path).shape
    return height, width


def to_bgr8(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Turn an image array into uint8 [H, W, 3] BGR; returns `image` itself if it is that already.

    Args:
        image: uint8 or uint16 (full range; the high byte is kept); grey [H, W] or [H, W, 1],
            BGR [H, W, 3] or BGRA [H, W, 4] (alpha is dropped, as torchvision and Pillow do).

    Raises:
        ImageError: another type or shape, or no pixels.
    """
    if image.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"an image of type {image.dtype}; expected uint8 or uint16, convert it")
    if image.ndim == 2:
        image = image[:, :, None]  # [H, W, 1]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or image.size == 0:
        raise ImageError(
            f"an image of shape {list(image.shape)}; expected [height, width] or [height, width, 1, 3 or 4]"
            " with at least one pixel"
        )
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    if image.shape[2] == 3:
        return image
    conversion = cv2.COLOR_GRAY2BGR if image.shape[2] == 1 else cv2.COLOR_BGRA2BGR
    return np.asarray(cv2.cvtColor(image, conversion))


def _decode(encoded: bytes) -> NDArray[Any] | None:
    return cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)


def is_cut_off_jpeg(encoded: bytes) -> bool:
    """Whether a JPEG has no end of image; what may follow that, such as a phone's video, does not matter.

    Segments, which may hold a thumbnail with an end of its own, are skipped by their length; in the entropy-coded
    data after a scan's header, the search finds the next marker (ITU-T T.81, B.1.1). OpenCV 4 fills what is
    missing with grey and says nothing; OpenCV 5 refuses such files itself.
    """
    if not encoded.startswith(b"\xff\xd8"):
        return False
    position = 2
    while marker := JPEG_MARKER.search(encoded, position):
        if marker[1] == JPEG_END:
            return False
        length = int.from_bytes(encoded[marker.end() : marker.end() + 2], "big")
        position = marker.end() + length
    return True


class _Silence:
    """How many now want OpenCV to be quiet, and the log level from before the first of them."""

    lock = threading.Lock()
    depth = 0
    level_before = 0


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """Keep OpenCV from writing to stderr what an error of ours says already.

    Its log level is the whole process's: the first thread that comes lowers it, the last that goes restores it.
    """
    # OpenCV 4 has these at the top, OpenCV 5 in a module of their own.
    get_level = getattr(cv2, "getLogLevel", None) or cv2.utils.logging.getLogLevel
    set_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel
    with _Silence.lock:
        # OpenCV's FFmpeg takes its level from here, whenever a video is opened. Its messages would break the live line
        # and can hold an address with its password.
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
        if _Silence.depth == 0:
            _Silence.level_before = get_level()
            set_level(0)  # silent
        _Silence.depth += 1
    try:
        yield
    finally:
        with _Silence.lock:
            _Silence.depth -= 1
            if _Silence.depth == 0:
                set_level(_Silence.level_before)
