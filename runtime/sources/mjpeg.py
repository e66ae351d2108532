"""Motion JPEG over HTTP, as webcams, ESP32 boards and many network cameras send it; and single pictures."""

from __future__ import annotations

import time
from collections.abc import Iterator

import av

from ssd_edge.errors import SourceError
from ssd_edge.runtime.redact import clean_text
from ssd_edge.runtime.sources.base import MAX_DAMAGED, Frame, Source, SourceOptions
from ssd_edge.runtime.sources.ffmpeg import pixels_of
from ssd_edge.runtime.sources.http import Answer
from ssd_edge.runtime.sources.jpeg import JpegCutter, JpegDecoder

MAX_JPEG_BYTES = 32 * 2**20
JPEG_TYPES = ("image/jpeg", "image/jpg", "image/pjpeg")


class MjpegSource(Source):
    """JPEGs out of the body of an answer, whatever its boundaries and lengths say.

    Args:
        answer: closed by the source.
    """

    decoder = "mjpeg (FFmpeg)"

    def __init__(self, name: str, answer: Answer, options: SourceOptions) -> None:
        self.name = name
        self.live = answer.length is None  # else it is one picture
        self._answer, self._options = answer, options
        self._jpegs = JpegDecoder()

    def frames(self) -> Iterator[Frame]:
        index = lost_in_a_row = 0
        for jpeg in self._bodies():
            packet = av.Packet(jpeg)
            picture = self._jpegs.decode(packet)
            damaged = picture is None
            self.corrupt += damaged
            if damaged and self._options.damaged == "keep":
                picture = self._jpegs.rescue(packet)
            if picture is not None:
                yield Frame(pixels_of(picture), index, time.monotonic(), self.name, damaged=damaged)
            lost_in_a_row = 0 if picture is not None else lost_in_a_row + 1
            if lost_in_a_row >= MAX_DAMAGED:
                raise SourceError(
                    f"{self.name}: {MAX_DAMAGED} frames in a row are damaged; check the connection, or --damaged keep"
                )
            index += 1
        if index == 0:
            raise SourceError(f"{self.name} gives no JPEG, although it says so; open it in a browser")
        if self.live:
            raise SourceError(f"{self.name} stopped after {index} frames; check the device or the connection")

    def close(self) -> None:
        self._answer.close()

    def _bodies(self) -> Iterator[bytes]:
        """Each JPEG.

        Raises:
            SourceError: one is too large, or did not come in time; or the connection broke.
        """
        cutter, timeout_s = JpegCutter(MAX_JPEG_BYTES), self._options.timeout_s
        begin = time.monotonic()
        try:
            while data := self._answer.read():
                for jpeg in cutter.feed(data):
                    yield jpeg
                    begin = time.monotonic()
                if time.monotonic() - begin > timeout_s:  # a few bytes now and then are no picture
                    raise TimeoutError
        except OverflowError:
            raise SourceError(
                f"{self.name}: a picture of more than {MAX_JPEG_BYTES >> 20} MiB; is it a camera?"
            ) from None
        except TimeoutError:
            raise SourceError(f"{self.name}: no frame within {timeout_s:g} s") from None
        except OSError as error:
            raise SourceError(f"{self.name} broke off: {clean_text(str(error))}") from None
        if rest := cutter.rest():
            yield rest


def is_mjpeg(answer: Answer) -> bool:
    """By what it says of itself."""
    return answer.content_type.startswith("multipart/") or answer.content_type in JPEG_TYPES
