"""JPEGs of a stream: cut out of a run of bytes, decoded into planes, and checked for damage."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import av
from av.packet import Packet
from av.video.frame import VideoFrame

from ssd_edge.images import is_cut_off_jpeg

MAX_PIXELS = 2**27  # of a frame: 16384×8192, as load_image has it; a header of a few bytes can ask for 32 times that
START = b"\xff\xd8"
# In the entropy-coded data after a scan's header, 0xff is followed by 0x00, a restart marker, or another 0xff (ITU-T
# T.81, B.1.1): what else follows it is the next marker.
MARKER = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])")
STANDALONE = frozenset(range(0xD0, 0xDA)) | {0x01}  # markers without a segment: restarts, start, end, TEM
START_CODE, END_CODE = 0xD8, 0xD9


class JpegDecoder:
    """Decodes one JPEG after the other. FFmpeg fills what is missing with grey unless it is told to be strict.

    Args:
        context: of a container that the JPEGs are in, not opened yet: it knows how they are turned, for example.
    """

    def __init__(self, context: av.VideoCodecContext | None = None) -> None:
        self._strict = _prepared(context, {"err_detect": "explode"})
        self._lenient: av.VideoCodecContext | None = None

    def decode(self, packet: Packet[Any]) -> VideoFrame | None:
        """The picture; None where it is damaged, or has no end: a picture of zeros may follow the half that came."""
        return None if is_cut_off_jpeg(bytes(packet)) else _decode(self._strict, packet)

    def rescue(self, packet: Packet[Any]) -> VideoFrame | None:
        """What there is of a damaged picture; None where that is nothing."""
        self._lenient = self._lenient or _prepared(None, {})
        return _decode(self._lenient, packet)


class JpegCutter:
    """Cuts a run of bytes into JPEGs by their own markers, whatever is between them.

    So it needs neither the boundaries of a multipart answer nor their lengths, which cameras get wrong. A JPEG that is
    cut off ends where the next one starts.

    Args:
        limit: bytes that a JPEG may have.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bytes = bytearray()
        self._position = 0  # what comes before it is known to hold no end

    def feed(self, more: bytes) -> Iterator[bytes]:
        """All JPEGs that are whole, or known to be cut off, with these further bytes.

        Raises:
            OverflowError: there is one, or something else, of more bytes than the limit.
        """
        self._bytes += more
        while (end := self._end()) is not None:
            yield bytes(self._bytes[:end])
            del self._bytes[:end]
            self._position = 0
        if len(self._bytes) > self._limit:
            raise OverflowError

    def rest(self) -> bytes:
        """What has begun and not ended."""
        return bytes(self._bytes) if self._position else b""

    def _end(self) -> int | None:
        """Where the JPEG ends that comes first; None while that is not known. Drops what comes before its start."""
        if not self._position:
            start = self._bytes.find(START)
            if start < 0:
                del self._bytes[:-1]  # half a marker may be the last byte
                return None
            del self._bytes[:start]
            self._position = len(START)
        while True:
            marker = MARKER.search(self._bytes, self._position)
            if marker is None:
                self._position = max(self._position, len(self._bytes) - 1)
                return None
            code, after = marker[1][0], marker.end()
            if code == END_CODE:
                return after
            if code == START_CODE:  # of the next one
                return marker.end() - len(START)
            if code in STANDALONE:
                self._position = after
                continue
            if len(self._bytes) < after + 2:
                self._position = marker.start()
                return None
            segment_end = after + int.from_bytes(self._bytes[after : after + 2], "big")
            if len(self._bytes) < segment_end:
                self._position = marker.start()
                return None
            self._position = segment_end


def _prepared(context: av.VideoCodecContext | None, options: dict[str, str]) -> av.VideoCodecContext:
    context = context or av.VideoCodecContext.create("mjpeg", "r")
    context.thread_count = 1  # a picture comes with its own packet
    context.options = {"max_pixels": str(MAX_PIXELS), **options}
    return context


def _decode(context: av.VideoCodecContext, packet: Packet[Any]) -> VideoFrame | None:
    try:
        frames = context.decode(packet)
    except av.FFmpegError:
        return None
    return frames[0] if frames else None
