"""Image files and arrays as uint8 [H, W, 3] BGR, whatever they were before."""

from __future__ import annotations

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
    except OSError as error:
        raise DatasetError(f"cannot read image {path}: {error.strerror}; check the path") from error
    try:
        with quiet_opencv():
            decoded = None if not encoded or _is_cut_off_jpeg(encoded) else _decode(encoded)
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


def _is_cut_off_jpeg(encoded: bytes) -> bool:
    """Whether there is a JPEG's last scan (FF DA) but no end of image (FF D9) after it.

    OpenCV 4 fills what is missing with grey and says nothing; OpenCV 5 refuses such files itself.
    """
    return encoded.startswith(b"\xff\xd8") and encoded.rfind(b"\xff\xd9") < encoded.rfind(b"\xff\xda")


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """Keep OpenCV from writing to stderr what an error of ours says already."""
    # OpenCV 4 has these at the top, OpenCV 5 in a module of their own.
    get_level = getattr(cv2, "getLogLevel", None) or cv2.utils.logging.getLogLevel
    set_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel
    before = get_level()
    set_level(0)  # silent
    try:
        yield
    finally:
        set_level(before)
