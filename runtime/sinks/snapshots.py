"""A picture of each event, and beside it what was found, for months on one disk."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ssd_edge.errors import SinkError
from ssd_edge.files import atomic_path, check_folder
from ssd_edge.runtime.results import Result
from ssd_edge.runtime.sinks.base import Sink
from ssd_edge.runtime.sinks.disk_space import FREE_FLOOR_BYTES, check_free, remove_oldest
from ssd_edge.runtime.sources.base import SourceInfo

logger = logging.getLogger(__name__)

GAP_S = 1.0  # at least, from one snapshot of a source to its next
JPEG_QUALITY = 90
KEEP_PARTS = 64  # the folder is looked through whenever this part of what may be kept is new
# Also what a kill left of a file that was being written: it begins with a dot, so that it goes first.
OWN_NAME = re.compile(r"\.?\d{8}-\d{6}\.\d{3}-.*\.(jpg|json)(\.\d+\.part)?")


class SnapshotsSink(Sink):
    """Snapshots of events: `20261125-031500.123-door.jpg`, by when the frame was captured (UTC), and `….json`.

    Of a source with zones or lines each frame with an event is taken; of others the first one with a detection after
    `quiet_s` without any. The JPEG is the frame with its overlay, the JSON its `Result.record`; when the JPEG is there,
    the other is too, and both are whole. Events within `GAP_S` of a source's last snapshot get none.

    What goes wrong while it writes is told once and never raised; the next event is tried again.

    Args:
        draw: gives the frame with its overlay, uint8 [H, W, 3]; it is asked for events alone.
        file_names: what each source is called in the names of files.
        keep_bytes: what all snapshots in the folder may take together: the oldest ones are removed, and nothing else.
            None for no limit.
        free_floor_bytes: what has to stay free on the disk.

    Raises:
        SinkError: the folder cannot be written, or images of the stream come from it.
    """

    needs_drawing = False

    def __init__(
        self,
        folder: Path,
        draw: Callable[[Result], NDArray[np.uint8]],
        file_names: Mapping[str, str],
        *sources: SourceInfo,
        keep_bytes: int | None = None,
        free_floor_bytes: int = FREE_FLOOR_BYTES,
        quiet_s: float = 5.0,
    ) -> None:
        if any(path.resolve().parent == folder.resolve() for source in sources for path in source.paths):
            raise SinkError(f"{folder} is where images of the stream come from; choose another folder for snapshots")
        check_folder(folder)
        self._folder = folder
        self._draw = draw
        self._file_names = file_names
        self._keep_bytes = keep_bytes
        self._free_floor_bytes = free_floor_bytes
        self._quiet_s = quiet_s
        self._seen_at: dict[str, float] = {}  # by source: when something was last detected
        self._taken_at: dict[str, float] = {}
        self._new_bytes = math.inf  # since the folder was looked through: it may hold those of earlier runs
        self._paused = False

    def write(self, result: Result, drawn_bgr: NDArray[np.uint8]) -> None:
        """Take a snapshot if there is an event; never raises for lack of space or of a working disk."""
        at_s = result.frame.time_s
        if not self._is_event(result) or at_s - self._taken_at.get(result.source, -math.inf) < GAP_S:
            return
        self._taken_at[result.source] = at_s
        try:
            check_free(self._folder, self._free_floor_bytes, resuming=self._paused)
            self._take(result)
        except (OSError, SinkError) as error:
            if not self._paused:
                logger.warning("%s: snapshots pause and everything else goes on: %s", self._folder, error)
            self._paused = True
        else:
            if self._paused:
                logger.info("taking snapshots again, in %s", self._folder)
            self._paused = False

    def _is_event(self, result: Result) -> bool:
        if result.counts:  # there are zones or lines
            return bool(result.events)
        if not len(result.detections):
            return False
        at_s = result.frame.time_s
        seen_at_s = self._seen_at.get(result.source, -math.inf)
        self._seen_at[result.source] = at_s
        return at_s - seen_at_s >= self._quiet_s

    def _take(self, result: Result) -> None:
        time = datetime.fromtimestamp(result.unix_time, timezone.utc)
        name = f"{time:%Y%m%d-%H%M%S}.{time.microsecond // 1000:03d}-{self._file_names[result.source]}"
        jpeg = _encoded(self._draw(result))
        for suffix, data in ((".json", json.dumps(result.record()).encode() + b"\n"), (".jpg", jpeg)):
            path = self._folder / (name + suffix)
            with atomic_path(path) as part:
                part.write_bytes(data)
            self._new_bytes += len(data)
        if self._keep_bytes is not None and self._new_bytes >= self._keep_bytes // KEEP_PARTS:
            remove_oldest(self._folder, OWN_NAME, self._keep_bytes - self._keep_bytes // KEEP_PARTS, path)
            self._new_bytes = 0


def _encoded(image_bgr: NDArray[np.uint8]) -> bytes:
    try:
        ok, jpeg = cv2.imencode(".jpg", image_bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    except cv2.error:  # or it only says no
        ok = False
    if not ok:
        height, width = image_bgr.shape[:2]
        raise SinkError(f"OpenCV cannot encode {width}×{height} pixels as a JPEG; ask the source for smaller frames")
    return bytes(jpeg.tobytes())
