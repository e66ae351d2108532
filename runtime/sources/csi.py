"""A Jetson's CSI cameras, which only GStreamer reads: through an OpenCV that has it, else through PyGObject.

https://docs.nvidia.com/jetson/archives/r36.4/DeveloperGuide/SD/Multimedia/AcceleratedGstreamer.html,
https://gstreamer.freedesktop.org/documentation/app/appsink.html
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ssd_edge.errors import SourceError
from ssd_edge.images import quiet_opencv
from ssd_edge.runtime.host.fixes import GSTREAMER_FIX
from ssd_edge.runtime.sources.base import Frame, Place, Source, SourceOptions
from ssd_edge.runtime.sources.capture import CaptureSource

SIZE_WH, FPS = (1280, 720), 30.0  # where nothing else is asked for
NEWEST = "drop=true max-buffers=1 sync=false"  # only the newest frame waits


def find_csi_camera(number: int, options: SourceOptions) -> Place:
    """A camera by its number, from 0.

    Raises:
        SourceError: nothing here speaks to GStreamer; with the fix.
    """
    name = f"csi {number}"
    if not has_gstreamer():
        raise SourceError(
            f"{name}: this OpenCV {cv2.__version__} has no GStreamer, and there is no PyGObject; {GSTREAMER_FIX}"
        )
    return Place(name, True, lambda: _open(name, number, options), camera=True)


def has_gstreamer() -> bool:
    """OpenCV has it, as JetPack's does, or PyGObject is here; pip's OpenCV never has it."""
    return _opencv_has_it() or load_gst() is not None


def csi_pipeline(number: int, options: SourceOptions) -> str:
    """GStreamer's words for a camera, up to BGRx in the processor's memory."""
    width, height = options.size_wh or SIZE_WH
    fps = round(1000 * (options.fps or FPS))
    return (
        f"nvarguscamerasrc sensor-id={number} ! "
        f"video/x-raw(memory:NVMM), width={width}, height={height}, framerate={fps}/1000 ! "
        "nvvidconv ! video/x-raw, format=BGRx"
    )


class GStreamerSource(Source):
    """Frames of a live pipeline that ends in BGRx, through PyGObject, which has to be there."""

    live = True

    def __init__(self, name: str, pipeline: str, *, fps: float, timeout_s: float, advice: str) -> None:
        """
        Args:
            pipeline: in the words of `gst-launch-1.0`.
            advice: what to check when there is no frame.

        Raises:
            SourceError: GStreamer knows no such pipeline.
        """
        self.name, self.fps = name, fps
        self._timeout_s, self._advice = timeout_s, advice
        self._gst = load_gst()
        try:
            self._pipeline = self._gst.parse_launch(f"{pipeline} ! appsink name=frames {NEWEST}")
        except importlib.import_module("gi.repository.GLib").Error as error:  # such as an element that is not installed
            raise SourceError(f"{name}: GStreamer says: {error.message}; {advice}") from error
        self._sink = self._pipeline.get_by_name("frames")

    def frames(self) -> Iterator[Frame]:
        self._pipeline.set_state(self._gst.State.PLAYING)  # a failure is told below
        read = 0
        while (sample := self._sink.emit("try-pull-sample", round(1e9 * self._timeout_s))) is not None:
            yield Frame(bgr_of(sample), read, time.monotonic(), self.name)
            read += 1
        message = self._pipeline.get_bus().pop_filtered(self._gst.MessageType.ERROR)
        if message is not None:
            problem = f"GStreamer says: {message.parse_error()[0].message}"
        elif self._sink.get_property("eos"):
            problem = f"stopped after {read} frames"
        else:
            problem = f"no frame within {self._timeout_s:g} s"
        raise SourceError(f"{self.name}: {problem}; {self._advice}")

    def close(self) -> None:
        self._pipeline.set_state(self._gst.State.NULL)


def _open(name: str, number: int, options: SourceOptions) -> Source:
    pipeline = csi_pipeline(number, options)
    advice = (
        f"check the ribbon cable and: gst-launch-1.0 nvarguscamerasrc sensor-id={number} num-buffers=1 ! fakesink; "
        "a hung camera service is mended by: sudo systemctl restart nvargus-daemon"
    )
    if not _opencv_has_it():
        return GStreamerSource(name, pipeline, fps=options.fps or FPS, timeout_s=options.timeout_s, advice=advice)
    with quiet_opencv():
        capture = cv2.VideoCapture(
            f"{pipeline} ! videoconvert ! video/x-raw, format=BGR ! appsink {NEWEST}", cv2.CAP_GSTREAMER
        )
    if not capture.isOpened():
        raise SourceError(f"no camera at {name} that can be opened; {advice}")
    return CaptureSource(name, capture)


def bgr_of(sample: Any) -> NDArray[np.uint8]:
    """uint8 [H, W, 3]: the picture of a BGRx sample of GStreamer."""
    buffer, format_ = sample.get_buffer(), sample.get_caps().get_structure(0)
    width, height = format_.get_value("width"), format_.get_value("height")
    # A copy by GStreamer itself: its buffer goes back to the camera at once, and rows may be longer than the picture.
    pixels = np.frombuffer(buffer.extract_dup(0, buffer.get_size()), np.uint8).reshape(height, -1, 4)
    image: NDArray[np.uint8] = cv2.cvtColor(pixels[:, :width], cv2.COLOR_BGRA2BGR)
    return image


def _opencv_has_it() -> bool:
    return bool(cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER))


def load_gst() -> Any:
    """GStreamer's module of PyGObject; None where it is not installed."""
    try:
        importlib.import_module("gi").require_version("Gst", "1.0")
        gst = importlib.import_module("gi.repository.Gst")
    except (ImportError, ValueError):  # ValueError: PyGObject without GStreamer's description
        return None
    gst.init(None)
    return gst
