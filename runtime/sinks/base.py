"""`Sink`: where results go; and what sinks that write files share."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ssd_edge.errors import SinkError
from ssd_edge.runtime.results import Result
from ssd_edge.runtime.sinks.disk_space import FREE_FLOOR_BYTES
from ssd_edge.runtime.sources.base import SourceInfo


@dataclass(frozen=True)
class Recording:
    """How a video is kept; see `VideoRecorder`."""

    segment_s: float | None = None
    keep_bytes: int | None = None
    free_floor_bytes: int = FREE_FLOOR_BYTES


class EndOfStream(Exception):
    """A sink's word that the user asks to end: nothing has gone wrong."""


class Sink(Protocol):
    """Takes each frame of a stream with what was found in it, in a thread of its own.

    Constructing one checks that it will be able to write, and destroys nothing yet. It may have more: `status(source,
    status, detail)` and `stats(source, stats)` are told how sources do, and `idle()` is called now and then while
    there is no frame.
    """

    @property
    def needs_drawing(self) -> bool:
        """It wants the frame with its overlay; may change with time."""
        return True

    def write(self, result: Result, drawn_bgr: NDArray[np.uint8]) -> None:
        """Take a frame.

        Args:
            drawn_bgr: uint8 [H, W, 3], the frame with its overlay, or without where that is not wanted; must not be
                changed.

        Raises:
            SinkError: it cannot be written.
            EndOfStream: the user asks to end.
        """

    def close(self) -> None:
        """Complete the output."""
        return


def check_writable(path: Path, *sources: SourceInfo) -> None:
    """Open for appending: what is there stays, and what is made for the test is removed."""
    for source in sources:
        check_no_input(source, path)
    existed = path.exists()
    make_folder(path.parent)
    try:
        with open(path, "ab"):
            pass
    except OSError as error:
        raise SinkError(f"cannot write {path}: {error.strerror}; choose a path that is writable") from error
    if not existed:
        path.unlink()


def check_no_input(source: SourceInfo, *outputs: Path) -> None:
    inputs = {_file_id(path) for path in source.paths} - {None}
    for path in outputs:
        if _file_id(path) in inputs:
            raise SinkError(f"{path} is an input, which would be overwritten; choose another name or folder")


def _file_id(path: Path) -> tuple[int, int] | None:
    """Tells files apart whatever path or link leads to them; None where there is no file."""
    try:
        status = os.stat(os.path.realpath(path))  # so `new/../a.jpg` is found before `new` is made
    except OSError:
        return None
    return status.st_dev, status.st_ino


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SinkError(f"cannot make the folder {folder}: {error.strerror}; choose another") from error
