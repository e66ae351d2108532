"""Detections as JSON lines."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from ssd_edge.errors import SinkError
from ssd_edge.runtime.results import Result
from ssd_edge.runtime.sinks.base import EndOfStream, Sink
from ssd_edge.runtime.sinks.output_paths import check_writable
from ssd_edge.runtime.sources.base import SourceInfo


class JsonLinesSink(Sink):
    """One JSON object a frame and line, `Result.record`, to a file or, for "-", to the standard output.

    Args:
        sources: all of the stream.
        append: keep the lines that the file has, as a service that is started anew has to.

    Raises:
        SinkError: the file cannot be written or is an input of the stream, or is a named pipe without a reader.
    """

    needs_drawing = False
    needs_pixels = False

    def __init__(self, target: str, *sources: SourceInfo, append: bool = False) -> None:
        self._target, self._append = target, append
        self._file: IO[str] | None = None
        if target != "-" and Path(target).is_fifo():
            self._file = _open_pipe(target)  # to open it for a check alone would end its reader
        elif target != "-":
            check_writable(Path(target), *sources)

    def write(self, result: Result, drawn_bgr: NDArray[np.uint8]) -> None:
        try:
            if self._file is None:
                self._file = self._open()
            self._file.write(json.dumps(result.record()) + "\n")  # ASCII: a name may be no UTF-8
            self._file.flush()  # a reader of the file or pipe sees each frame at once
        except BrokenPipeError:  # the reader, such as `head`, has seen enough
            self._discard()
            raise EndOfStream from None
        except OSError as error:
            self._discard()
            raise SinkError(f"cannot write {self._target}: {error.strerror}; is the disk full?") from error

    def _open(self) -> IO[str]:
        if self._target == "-":
            return sys.stdout
        if self._append and Path(self._target).is_file():
            with suppress(OSError):  # it may be written and not read
                _end_the_line(Path(self._target))
        return open(self._target, "a" if self._append else "w", encoding="utf-8")

    def _discard(self) -> None:
        """Drop what could not be written; closing the file, or Python at its exit, would try once more."""
        if self._target == "-":
            with open(os.devnull, "w") as devnull:
                os.dup2(devnull.fileno(), sys.stdout.fileno())
        elif self._file is not None:
            with suppress(OSError):
                self._file.close()

    def close(self) -> None:
        if self._file is not None and self._target != "-":
            self._file.close()


def _end_the_line(path: Path) -> None:
    """A last line that was cut off, as by a power cut, is to spoil no other."""
    with open(path, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        whole = file.read() in (b"", b"\n")
    if not whole:
        with open(path, "ab") as file:
            file.write(b"\n")


def _open_pipe(target: str) -> IO[str]:
    """Open a named pipe, at once or not at all: a plain `open` waits for a reader, and no signal ends that."""

    def open_at_once(path: str, flags: int) -> int:
        descriptor = os.open(path, flags | os.O_NONBLOCK)
        os.set_blocking(descriptor, True)
        return descriptor

    try:
        return open(target, "w", encoding="utf-8", opener=open_at_once)
    except OSError as error:
        raise SinkError(f"cannot write to the pipe {target}: {error.strerror}; start its reader first") from error
