"""Sizes, times and codes as people write them: `640x480`, `10GB`, `10m`, `MJPG`."""

from __future__ import annotations

import re

from ssd_edge.errors import UsageError

LARGEST = 1 << 60  # bytes


def size_wh(text: str) -> tuple[int, int]:
    """`1280x720` as (1280, 720); `1280X720` and `1280×720` too.

    Raises:
        UsageError: it is no size.
    """
    if not (found := re.fullmatch(r"([1-9]\d{0,4})[xX×]([1-9]\d{0,4})", str(text))):
        raise UsageError(f"got {text!r}, expected a size such as 1280x720")
    return int(found[1]), int(found[2])


def byte_size(text: str, *, kilo: int = 1000) -> int:
    """`10GB`, `500 MiB` or `1e9` in bytes.

    Args:
        kilo: what K stands for: 1000 of files, 1024 of memory. Ki is 1024 in any case.

    Raises:
        UsageError: it is no size, is less than one byte, or is not below `LARGEST`.
    """
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+)(e\d+)?\s*(?:([KMGT])(i?))?B?", str(text), re.IGNORECASE)
    size = 0.0
    if found:
        power = "KMGT".index(found[3].upper()) + 1 if found[3] else 0
        size = float(found[1] + (found[2] or "")) * float(1024 if found[4] else kilo) ** power
    if not 1 <= size < LARGEST:
        raise UsageError(f"got {text!r}, expected a size such as 10GB")
    return round(size)


def seconds(text: str) -> float:
    """`90`, `10m` or `1h` in seconds.

    Raises:
        UsageError: it is no time.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", str(text))
    if not found or float(found[1]) <= 0:
        raise UsageError(f"got {text!r}, expected a time such as 90s, 10m or 1h")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


def fourcc(text: str) -> str:
    """The name of a pixel format.

    Raises:
        UsageError: it has not four characters.
    """
    if not isinstance(text, str) or len(text) != 4 or not text.isascii():
        raise UsageError(f"got {text!r}, expected four characters such as MJPG or YUYV")
    return text
