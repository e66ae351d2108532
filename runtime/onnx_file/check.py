"""Look into an ONNX file without trusting it, before a runtime opens it.

Needs no onnx package, copies no weights, and is stricter than protobuf where parsers may read one file in two ways: a
field that occurs twice or has another wire type than its own is refused.
"""

from __future__ import annotations

import mmap
import os
import stat
from pathlib import Path

from ssd_edge.errors import ModelFileError
from ssd_edge.runtime.onnx_file.file import LARGEST_BYTES, REMEDY, OnnxFile
from ssd_edge.runtime.onnx_file.walk import Walk
from ssd_edge.runtime.onnx_file.wire import WireReader


def check_onnx_file(path: Path) -> OnnxFile:
    """Read what an ONNX file is, and refuse one that a runtime should not be given.

    Refused are files that are no ONNX model, cut short, or larger than 2 GiB; tensors kept outside the file, wherever
    in it they are named; tensors whose data is not what their dimensions say, or that would be larger than 2 GiB;
    input sizes above `LARGEST_INPUT_SIZE`; messages nested deeper than `DEEPEST`. Whether operators and opset are
    known is for the runtime to say.

    Raises:
        ModelFileError: one of these; the message names the tensor.
    """
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ModelFileError(f"{path}: cannot load it: not a file; {REMEDY}")
            if status.st_size == 0:
                raise ModelFileError(f"{path}: cannot load it: it is empty, as after an interrupted copy; {REMEDY}")
            if status.st_size > LARGEST_BYTES:
                size = f"{status.st_size / 1e9:.1f} GB"
                raise ModelFileError(f"{path}: cannot load it: {size}, ONNX files have at most 2 GiB; {REMEDY}")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot load it: {error.strerror or error}; check the path") from error
    return Walk(WireReader(path, data)).model()


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe would wait for its writer
