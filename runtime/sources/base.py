"""`Source`: where frames come from; `Place`: what opens one, again and again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ssd_edge.runtime.pixels import Pixels, size_hw_of, to_bgr

TIMEOUT_S = 8.0  # a slow camera answers DESCRIBE within about 3 s
CUT_OFF_S = 1.0  # how far a whole file's last frame may be from its duration
MAX_DAMAGED = 100  # frames in a row without a whole one; more than a burst of lost packets
Uri = str | int | Path


@dataclass(frozen=True)
class Frame:
    """One frame of a source.

    Attributes:
        pixels: the picture as its decoder gives it: uint8 [H, W, 3] BGR, YUV planes, or on a GPU.
        index: 0-based position in the source; frames that were dropped are counted.
        captured_at: `time.monotonic()` when it had been read, in seconds.
        name: what it is called in outputs: the image's path within its folder, or the source's name.
        media_time_s: presentation time on the source's own clock, in seconds from the source's start; None where it
            has no clock, as images have none.
        at_s: when the frame is, in seconds on a clock of this stream that never goes back, whatever the source's own
            does (`Timeline`): what tracks and recordings go by. None before a `SourceWorker` has taken the frame.
        damaged: parts of it are not what was sent.
    """

    pixels: Pixels
    index: int
    captured_at: float
    name: str
    media_time_s: float | None = None
    at_s: float | None = None
    damaged: bool = False

    @cached_property
    def image_bgr(self) -> NDArray[np.uint8]:
        """uint8 [H, W, 3]; made when it is asked for, and kept."""
        return to_bgr(self.pixels)

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return size_hw_of(self.pixels)

    @property
    def time_s(self) -> float:
        """`at_s`, or what is known of it: when it was read."""
        return self.captured_at if self.at_s is None else self.at_s


class SourceInfo(Protocol):
    """What outputs ask of a source.

    Attributes:
        name: for messages; without any password.
        live: it does not wait for the reader, so that late frames are worth nothing.
        fps: frames per second, on average; None where there is no such thing or it is not known.
        frame_count: how many frames there should be, None where not known.
        paths: the files that are read, which no output may overwrite.
    """

    @property
    def name(self) -> str: ...
    @property
    def live(self) -> bool: ...
    @property
    def fps(self) -> float | None: ...
    @property
    def frame_count(self) -> int | None: ...
    @property
    def paths(self) -> tuple[Path, ...]: ...


class Source(ABC):
    """Gives frames in order; a context manager. A `SourceInfo`.

    Attributes:
        corrupt: frames that came damaged, and were left out unless damaged ones are kept.
        decoder: what decodes it, in a few words, such as "h264 (FFmpeg)"; "" where that is of no interest.
    """

    name: str
    live: bool = False
    fps: float | None = None
    frame_count: int | None = None
    paths: tuple[Path, ...] = ()
    corrupt: int = 0
    decoder: str = ""

    @abstractmethod
    def frames(self) -> Iterator[Frame]:
        """The frames, once.

        Raises:
            SourceError: there is not one frame, or a live source has ended.
        """

    @abstractmethod
    def close(self) -> None:
        """Free the device or file."""

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class SourceOptions:
    """How to open a source; each option counts where it means something.

    Attributes:
        size_wh, fps, pixel_format: what to ask of a camera: `(1280, 720)`, 30, `"MJPG"`. It gives the nearest it has.
            `fps` is also the pace of `realtime`.
        transport: of RTSP: `tcp`, or `udp`, over which lost packets smear the picture.
        realtime: play a file as if it were a camera.
        timeout_s: how long a network stream may take to open, and to give each frame.
        damaged: `skip` frames that come damaged, or `keep` them where there is anything of them.
        hwaccel: what decodes: `none` for the processor, `cuda`, `qsv` or `gstreamer`; `auto` for the best there is.
        allow_redirects: follow what sends to another host; else only within the one that was asked for.
        decoder_threads: of a file's decoder; a live source has one, as each more would keep a frame back.
        gpu: pictures that are decoded on a GPU stay there, for a detector on the same one.
    """

    size_wh: tuple[int, int] | None = None
    fps: float | None = None
    pixel_format: str | None = None
    transport: str = "tcp"
    realtime: bool = False
    timeout_s: float = TIMEOUT_S
    damaged: str = "skip"
    hwaccel: str = "auto"
    allow_redirects: bool = False
    decoder_threads: int = 1
    gpu: bool = False


@dataclass(frozen=True)
class Place:
    """Where frames can be had; not opened yet.

    Attributes:
        name: without any password.
        remote: a camera or an address, which may be there later if it is not now.
        open: opens it; raises SourceError.
        camera: it is a camera of this machine, which can be asked for a size and a rate.
    """

    name: str
    remote: bool
    open: Callable[[], Source]
    camera: bool = False
