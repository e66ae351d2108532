"""A webcam as V4L2's ioctls show it."""

import errno
import struct
from typing import Any

Formats = dict[bytes, dict[tuple[int, ...], list[tuple[int, ...]]]]  # by fourcc and size: intervals in seconds


class FakeWebcam:
    """An ioctl of a webcam with these formats: sizes by fourcc, seconds a frame by size. Written from videodev2.h."""

    def __init__(self, formats: Formats, *, capture: int = 0x1) -> None:
        self.formats = formats
        self.capture = capture

    def __call__(self, _: int, request: int, buffer: bytearray) -> None:
        number, size = request & 0xFF, request >> 16 & 0x3FFF
        assert size == len(buffer)
        {0: self.capabilities, 2: self.format, 74: self.size, 75: self.interval}[number](buffer)

    def capabilities(self, buffer: bytearray) -> None:
        struct.pack_into("16s32s32s3I", buffer, 0, b"uvcvideo", b"HD Webcam", b"usb-1", 6, 0x84A00001, self.capture)

    def format(self, buffer: bytearray) -> None:
        index, buffers = struct.unpack_from("2I", buffer)
        name = self.nth(self.formats if buffers == 1 else {}, index)
        buffer[44:48] = name

    def size(self, buffer: bytearray) -> None:
        index, name = struct.unpack_from("I4s", buffer)
        size = self.nth(self.formats[name], index)
        struct.pack_into(f"{1 + len(size)}I", buffer, 8, 1 if len(size) == 2 else 3, *size)

    def interval(self, buffer: bytearray) -> None:
        index, name, width, height = struct.unpack_from("I4s2I", buffer)
        sizes = self.formats[name]
        seconds = self.nth(sizes.get((width, height)) or next(iter(sizes.values())), index)
        struct.pack_into(f"{1 + len(seconds)}I", buffer, 16, 1 if len(seconds) == 2 else 3, *seconds)

    @staticmethod
    def nth(items: Any, index: int) -> Any:
        if index >= len(items):
            raise OSError(errno.EINVAL, "no more")
        return list(items)[index]
