"""Which of a camera's modes is asked for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ssd_edge.runtime.host.v4l2 import Mode
from ssd_edge.runtime.sources.base import SourceOptions

SIZE_WH = (640, 480)  # where no size is asked for, as OpenCV has it
MJPG_FORMATS = ("MJPG", "JPEG")
# V4L2's names of what OpenCV and GStreamer read; of the same frame rate the first one is taken, as it costs least.
FORMATS = ("NV12", "YU12", "YV12", "YUYV", "UYVY", "BGR3", "RGB3", *MJPG_FORMATS)
GREY = "GREY"  # where there is nothing else: of infrared cameras


@dataclass(frozen=True)
class CameraMode:
    """What a camera is asked for.

    Attributes:
        pixel_format: V4L2's four characters.
        fps: frames per second; None where its driver does not say what it can.
    """

    pixel_format: str
    width: int
    height: int
    fps: float | None = None

    def __str__(self) -> str:
        return f"{self.pixel_format} {self.width}×{self.height}" + (f" at {self.fps:g} FPS" if self.fps else "")


def choose_mode(modes: Iterable[Mode], options: SourceOptions) -> CameraMode | None:
    """The nearest to the size asked for, then of the highest frame rate, or one that is enough for the rate asked for.

    USB limits what is not compressed, so that cameras give large pictures faster as MJPG; at the same rate, raw ones
    need no decoder. None where nothing is known of the camera, or nothing that can be read.
    """
    wanted_width, wanted_height = options.size_wh or SIZE_WH
    readable = [mode for mode in modes if mode.pixel_format in (*FORMATS, GREY)]
    of_format = [mode for mode in readable if mode.pixel_format == options.pixel_format] or readable
    best: tuple[tuple[float, ...], CameraMode] | None = None
    for mode in of_format:
        width, height = mode.width, mode.height
        if mode.smallest:
            width = min(max(wanted_width, mode.smallest[0]), width)
            height = min(max(wanted_height, mode.smallest[1]), height)
        fps = next((rate for rate in mode.fps if rate >= (options.fps or float("inf"))), max(mode.fps, default=None))
        grey = mode.pixel_format == GREY
        distance = abs(width - wanted_width) + abs(height - wanted_height)
        enough = min(fps or 0.0, options.fps or float("inf"))
        rank = (grey, distance, -enough, 0 if grey else FORMATS.index(mode.pixel_format))
        if best is None or rank < best[0]:
            best = rank, CameraMode(mode.pixel_format, width, height, fps)
    return best[1] if best else None
