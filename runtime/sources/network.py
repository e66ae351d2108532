"""Network cameras and other addresses as sources, opened by OpenCV's FFmpeg."""

from __future__ import annotations

import os
import time

import cv2

from ssd_edge.errors import SourceError
from ssd_edge.images import quiet_opencv
from ssd_edge.runtime.redact import clean_url
from ssd_edge.runtime.sources.base import Place, Source, SourceOptions
from ssd_edge.runtime.sources.video import VideoSource

URL_SCHEMES = ("rtsp", "rtsps", "rtmp", "http", "https", "udp", "tcp", "srt")
FFMPEG_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"  # OpenCV reads it at every opening


class RtspTransport:
    """Over what FFmpeg reads RTSP streams. OpenCV takes it from the environment alone: one for the whole process.

    Options that the user has put there stay as they are.
    """

    def __init__(self) -> None:
        self._written: str | None = None  # by this object; any other value is the user's

    def choose(self, transport: str) -> None:
        """Take `tcp` or `udp` for what is opened from here on."""
        if os.environ.get(FFMPEG_OPTIONS) in (None, self._written):
            self._written = f"rtsp_transport;{transport}"
            os.environ[FFMPEG_OPTIONS] = self._written


_rtsp_transport = RtspTransport()


def find_address(url: str, options: SourceOptions) -> Place:
    """A network stream, or a video on a web server.

    Raises:
        SourceError: the address is of an unknown kind.
    """
    name = clean_url(url)
    scheme = url.split("://")[0].lower()
    if scheme not in URL_SCHEMES:
        raise SourceError(f"{name}: unknown kind of address; expected one of {', '.join(URL_SCHEMES)}")
    return Place(name, True, lambda: _open(name, url, options))


def _open(name: str, url: str, options: SourceOptions) -> Source:
    timeout_s, timeout_ms = options.timeout_s, round(1000 * options.timeout_s)
    parameters = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, timeout_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, timeout_ms]
    parameters += [cv2.CAP_PROP_N_THREADS, 1]  # each more would keep a frame back
    _rtsp_transport.choose(options.transport)
    begin = time.monotonic()
    with quiet_opencv():
        capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG, parameters)
    if not capture.isOpened():
        waited_s = time.monotonic() - begin
        raise SourceError(
            f"cannot open {name}: no usable answer within {waited_s:.1f} s (limit {timeout_s:g} s); "
            "check address, port, user and password, and that the device is on"
        )
    is_file = capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0  # such as an mp4 on a web server
    return VideoSource(name, capture, live=not is_file)
