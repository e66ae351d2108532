"""`Source`: where frames come from; `Place`: what opens one, again and again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

TIMEOUT_S = 8.0  # a slow camera answers DESCRIBE within about 3 s
Uri = str | int | Path


@dataclass(frozen=True)
class Frame:
    """One frame of a source.

    Attributes:
        image_bgr: uint8 [H, W, 3].
        index: 0-based position in the source; frames that were dropped are counted.
        captured_at: `time.monotonic()` when it had been read, in seconds.
        name: what it is called in outputs: the image's path within its folder, or the source's name.
    """

    image_bgr: NDArray[np.uint8]
    index: int
    captured_at: float
    name: str


class SourceInfo(Protocol):
    """What outputs ask of a source.

    Attributes:
        name: for messages; without any password.
        live: it does not wait for the reader, so that late frames are worth nothing.
        fps: frames a second, None where there is no such thing or it is not known.
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
        corrupt: frames that came so damaged that they were left out.
    """

    name: str
    live: bool = False
    fps: float | None = None
    frame_count: int | None = None
    paths: tuple[Path, ...] = ()
    corrupt: int = 0

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
        transport: of RTSP: `tcp`, or `udp`, over which lost packets smear the picture; one for the whole process.
        realtime: play a file as if it were a camera.
        timeout_s: how long a network stream may take to open, and to give each frame.
    """

    size_wh: tuple[int, int] | None = None
    fps: float | None = None
    pixel_format: str | None = None
    transport: str = "tcp"
    realtime: bool = False
    timeout_s: float = TIMEOUT_S


@dataclass(frozen=True)
class Place:
    """Where frames can be had; not opened yet.

    Attributes:
        name: without any password.
        remote: a camera or an address, which may be there later if it is not now.
        open: opens it; raises SourceError.
    """

    name: str
    remote: bool
    open: Callable[[], Source]
