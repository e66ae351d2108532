"""A Jetson's CSI cameras, which only GStreamer reads: through PyGObject, else through an OpenCV that has it.

https://docs.nvidia.com/jetson/archives/r36.4/DeveloperGuide/SD/Multimedia/AcceleratedGstreamer.html
"""

from __future__ import annotations

import cv2

from ssd_edge.errors import SourceError
from ssd_edge.images import quiet_opencv
from ssd_edge.runtime.host.fixes import GSTREAMER_FIX
from ssd_edge.runtime.sources.base import Place, Source, SourceOptions
from ssd_edge.runtime.sources.capture import CaptureSource
from ssd_edge.runtime.sources.gstreamer import NEWEST, GStreamerSource, load_gstreamer
from ssd_edge.runtime.sources.pipelines import csi_pipeline

SIZE_WH, FPS = (1280, 720), 30.0  # where nothing else is asked for


def find_csi_camera(number: int, options: SourceOptions) -> Place:
    """A camera by its number, from 0.

    Raises:
        SourceError: nothing here speaks to GStreamer; with the fix.
    """
    name = f"csi {number}"
    if not has_gstreamer():
        raise SourceError(
            f"{name}: there is no PyGObject with GStreamer, and this OpenCV {cv2.__version__} has none; {GSTREAMER_FIX}"
        )
    return Place(name, True, lambda: _open(name, number, options), camera=True)


def has_gstreamer() -> bool:
    """PyGObject is here, or OpenCV has GStreamer, as JetPack's does; pip's OpenCV never has it."""
    return load_gstreamer() is not None or _opencv_has_it()


def _open(name: str, number: int, options: SourceOptions) -> Source:
    pipeline = csi_pipeline(number, options.size_wh or SIZE_WH, options.fps or FPS)
    advice = (
        f"check the ribbon cable and: gst-launch-1.0 nvarguscamerasrc sensor-id={number} num-buffers=1 ! fakesink; "
        "a hung camera service is fixed by: sudo systemctl restart nvargus-daemon"
    )
    if load_gstreamer() is not None:
        return GStreamerSource(name, pipeline, options, live=True, advice=advice)
    with quiet_opencv():
        to_bgr = "nvvidconv ! video/x-raw, format=BGRx ! videoconvert ! video/x-raw, format=BGR"
        capture = cv2.VideoCapture(f"{pipeline} ! {to_bgr} ! appsink {NEWEST}", cv2.CAP_GSTREAMER)
    if not capture.isOpened():
        raise SourceError(f"no camera at {name} that can be opened; {advice}")
    return CaptureSource(name, capture)


def _opencv_has_it() -> bool:
    return bool(cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER))
