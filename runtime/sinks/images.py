"""Annotated images."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ssd_edge.errors import SinkError
from ssd_edge.images import quiet_opencv
from ssd_edge.runtime.results import Result
from ssd_edge.runtime.sinks.base import Sink
from ssd_edge.runtime.sinks.output_paths import check_no_input, check_writable, make_folder
from ssd_edge.runtime.sources.base import SourceInfo
from ssd_edge.runtime.sources.images import is_image, names_below_common_folder


class ImagesSink(Sink):
    """Annotated images in a folder: image files under the names they have in theirs, other frames by number.

    Raises:
        SinkError: the folder cannot be written, or is the one that the images come from.
    """

    def __init__(self, folder: Path, source: SourceInfo) -> None:
        self._named = all(map(is_image, source.paths)) and bool(source.paths)
        if self._named:
            check_no_input(source, *(folder / name for name in names_below_common_folder(source.paths)))
        make_folder(folder)
        self._folder = folder

    def write(self, result: Result, drawn_bgr: NDArray[np.uint8]) -> None:
        path = self._folder / (result.frame.name if self._named else f"{result.frame.index:06d}.jpg")
        make_folder(path.parent)
        _write_image(path, drawn_bgr)


class ImageSink(Sink):
    """One annotated image, for a source of one image.

    Raises:
        SinkError: the file cannot be written or is the input, or the source has more frames.
    """

    def __init__(self, path: Path, source: SourceInfo) -> None:
        if source.frame_count != 1:
            raise SinkError(f"{path} can take one frame; save {source.name} to a folder or a video instead")
        check_writable(path, source)
        self._path = path

    def write(self, result: Result, drawn_bgr: NDArray[np.uint8]) -> None:
        _write_image(self._path, drawn_bgr)


def _write_image(path: Path, image_bgr: NDArray[np.uint8]) -> None:
    if path.suffix.lower() == ".pgm":  # grey only
        image_bgr = np.asarray(cv2.cvtColor(image_bgr, cv2.COLOR_BGR2GRAY))
    try:
        with quiet_opencv():
            ok, encoded = cv2.imencode(path.suffix, image_bgr)
    except cv2.error:  # or it only says no
        ok = False
    if not ok:
        height, width = image_bgr.shape[:2]
        raise SinkError(
            f"cannot write {path}: OpenCV cannot encode {width}×{height} pixels as {path.suffix}; "
            "choose another kind of image, such as .png"
        )
    try:
        path.write_bytes(encoded.tobytes())
    except OSError as error:
        raise SinkError(f"cannot write {path}: {error.strerror}; choose a path that is writable") from error
