"""What a camera can do, asked of its driver through V4L2's ioctls.

Structures and numbers: linux/videodev2.h
(https://docs.kernel.org/userspace-api/media/v4l/user-func.html).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

QUERYCAP, ENUM_FMT = 0x80685600, 0xC0405602
ENUM_FRAMESIZES, ENUM_FRAMEINTERVALS = 0xC02C564A, 0xC034564B
CAPABILITY = struct.Struct("=16s32s32s3I12x")  # driver, card, bus, version, of the device, of this node
FORMAT = struct.Struct("=3I32sI16x")  # index, buffers, flags, description, fourcc
SIZE = struct.Struct("=3I6I8x")  # index, fourcc, kind; width, height or min, max, step of each
INTERVAL = struct.Struct("=5I6I8x")  # index, fourcc, width, height, kind; seconds as one or three fractions

CAN_CAPTURE, HAS_NODE_CAPABILITIES = 0x1 | 0x1000, 0x80000000  # single- or multi-planar
CAPTURE_BUFFERS = (1, 9)  # single- and multi-planar
DISCRETE = 1
MOST = 256  # of formats, of sizes, of intervals

Ioctl = Callable[[int, int, bytearray], object]


@dataclass(frozen=True)
class Mode:
    """One pixel format and size.

    Attributes:
        pixel_format: V4L2's four characters, such as `YUYV` or `MJPG`.
        smallest: width and height, where any size from there up to `width` × `height` can be had.
        fps: frame rates; where any can be had, the lowest and the highest.
    """

    pixel_format: str
    width: int
    height: int
    fps: tuple[float, ...] = ()
    smallest: tuple[int, int] | None = None


@dataclass(frozen=True)
class Camera:
    """A device that captures: its name and driver, and its modes."""

    name: str
    driver: str
    modes: tuple[Mode, ...]


def read_camera(device: int, ioctl: Ioctl | None = None) -> Camera | None:
    """Ask an open device.

    Args:
        ioctl: in place of the system's, for tests.

    Returns:
        None where it captures no video, such as the nodes of metadata and of codecs.

    Raises:
        OSError: it is no V4L2 device, or does not answer.
    """
    if ioctl is None:
        import fcntl  # not on Windows

        ioctl = fcntl.ioctl
    driver, card, _, _, of_device, of_node = _ask(device, ioctl, QUERYCAP, CAPABILITY)
    if not (of_node if of_device & HAS_NODE_CAPABILITIES else of_device) & CAN_CAPTURE:
        return None
    return Camera(_text(card), _text(driver), tuple(_modes(device, ioctl)))


def _modes(device: int, ioctl: Ioctl) -> Iterator[Mode]:
    for buffers in CAPTURE_BUFFERS:
        for _, _, _, _, fourcc in _all(device, ioctl, ENUM_FMT, FORMAT, buffers):
            for _, _, kind, *sides in _all(device, ioctl, ENUM_FRAMESIZES, SIZE, fourcc):
                if kind == DISCRETE:
                    (width, height), smallest = sides[:2], None
                else:
                    low_width, width, _, low_height, height, _ = sides
                    smallest = (low_width, low_height)
                yield Mode(_fourcc(fourcc), width, height, _fps(device, ioctl, fourcc, width, height), smallest)


def _fps(device: int, ioctl: Ioctl, *mode: int) -> tuple[float, ...]:
    rates = set()
    for _, _, _, _, kind, *seconds in _all(device, ioctl, ENUM_FRAMEINTERVALS, INTERVAL, *mode):
        fractions = seconds[:2] if kind == DISCRETE else seconds[:4]  # one, or the shortest and the longest
        pairs = zip(fractions[::2], fractions[1::2], strict=True)
        rates |= {round(below / above, 2) for above, below in pairs if above}
    return tuple(sorted(rates))


def _all(device: int, ioctl: Ioctl, request: int, layout: struct.Struct, *of: int) -> Iterator[tuple[int, ...]]:
    """Everything that an ENUM ioctl lists, until the driver says that there is no more, or says the same again."""
    before: tuple[int, ...] = ()
    for index in range(MOST):
        try:
            answer = _ask(device, ioctl, request, layout, index, *of)
        except OSError:
            return
        if answer[1:] == before:
            return
        yield answer
        before = answer[1:]


def _ask(device: int, ioctl: Ioctl, request: int, layout: struct.Struct, *leading: int) -> tuple[Any, ...]:
    buffer = bytearray(struct.pack(f"={len(leading)}I", *leading).ljust(layout.size, b"\0"))
    ioctl(device, request, buffer)
    return layout.unpack(buffer)


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode(errors="replace")


def _fourcc(number: int) -> str:
    return struct.pack("=I", number & 0x7FFFFFFF).decode("latin-1").strip()  # the highest bit: big-endian
