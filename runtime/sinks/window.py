"""Results in a window on this machine."""

from __future__ import annotations

import os
import subprocess
import sys

import cv2
import numpy as np
from numpy.typing import NDArray

from ssd_edge.errors import SinkError
from ssd_edge.runtime.results import Result
from ssd_edge.runtime.sinks.base import EndOfStream, Sink

PROBE_TIMEOUT_S = 20.0


class WindowSink(Sink):
    """A window a source on the screen; q, Esc or closing one ends the stream.

    Raises:
        SinkError: there is no display, or OpenCV was built without windows.
    """

    idle_s = 0.05

    def __init__(self) -> None:
        os.environ.setdefault("QT_LOGGING_RULES", "default.warning=false")  # OpenCV's Qt misses fonts, at length
        # Without a display OpenCV's Qt aborts the whole process, so another process tries first.
        probe = "import cv2; cv2.namedWindow('probe'); cv2.waitKey(1)"
        try:
            subprocess.run([sys.executable, "-c", probe], capture_output=True, check=True, timeout=PROBE_TIMEOUT_S)
        except subprocess.SubprocessError as error:
            raise SinkError(
                "cannot open a window: no display can be reached, or this OpenCV was built without windows; "
                "leave out --show and use --save, or set DISPLAY"
            ) from error

        self._titles: set[str] = set()

    def write(self, result: Result, drawn_bgr: NDArray[np.uint8]) -> None:
        title = f"ssd-edge: {result.source}"
        if title not in self._titles:
            cv2.namedWindow(title, cv2.WINDOW_NORMAL)
            self._titles.add(title)
        elif not _is_visible(title):  # imshow would open another
            raise EndOfStream
        cv2.imshow(title, drawn_bgr)
        self.idle()

    def idle(self) -> None:
        """Let the window live, also while no frame comes."""
        if self._titles and (
            cv2.waitKey(1) & 0xFF in (ord("q"), 27) or not all(map(_is_visible, self._titles))
        ):  # closed
            raise EndOfStream

    def close(self) -> None:
        if self._titles:
            cv2.destroyAllWindows()


def _is_visible(title: str) -> bool:
    return bool(cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) >= 1)
