"""Paths that sinks write: checked before the first frame, and never an input of the stream."""

from __future__ import annotations

import os
from pathlib import Path

from ssd_edge.errors import SinkError
from ssd_edge.runtime.sources.base import SourceInfo


def check_writable(path: Path, *sources: SourceInfo) -> None:
    """Open for appending: what is there stays, and what is made for the test is removed.

    Raises:
        SinkError: the file cannot be written, or is an input of the stream.
    """
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
    """Check that no output is a file that the source reads.

    Raises:
        SinkError: one is.
    """
    inputs = {_file_id(path) for path in source.paths} - {None}
    for path in outputs:
        if _file_id(path) in inputs:
            raise SinkError(f"{path} is an input, which would be overwritten; choose another name or folder")


def make_folder(folder: Path) -> None:
    """Make a folder and its parents where they do not exist.

    Raises:
        SinkError: that is not possible.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SinkError(f"cannot make the folder {folder}: {error.strerror}; choose another") from error


def _file_id(path: Path) -> tuple[int, int] | None:
    """Tells files apart whatever path or link leads to them; None where there is no file."""
    try:
        status = os.stat(os.path.realpath(path))  # so `new/../a.jpg` is found before `new` is made
    except OSError:
        return None
    return status.st_dev, status.st_ino
