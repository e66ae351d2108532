"""Annotated video that can be played whatever happened: the process killed, the disk full, the clock set back."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timezone
from fractions import Fraction
from itertools import count
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

from ssd_edge.errors import SinkError
from ssd_edge.runtime.results import Result
from ssd_edge.runtime.sinks.base import Sink
from ssd_edge.runtime.sinks.disk_space import FREE_FLOOR_BYTES, check_free, remove_oldest
from ssd_edge.runtime.sinks.output_paths import check_writable
from ssd_edge.runtime.sinks.video_opencv import letterbox
from ssd_edge.runtime.sources.base import SourceInfo

logger = logging.getLogger(__name__)

FRAGMENT_S = 1.0  # what a kill can cost
FRAGMENTS = {"movflags": "empty_moov+default_base_moof", "frag_duration": f"{1e6 * FRAGMENT_S:.0f}"}
# Container and options by suffix; both write a whole piece of FRAGMENT_S at a time.
CONTAINERS = {
    ".mp4": ("mp4", FRAGMENTS),
    ".mov": ("mov", FRAGMENTS),
    ".mkv": ("matroska", {"cluster_time_limit": f"{1e3 * FRAGMENT_S:.0f}"}),
}
# The first that opens is taken. None may hold frames back, which a kill would cost too.
ENCODERS = {
    "libx264": {"preset": "veryfast", "tune": "zerolatency", "crf": "23"},
    "libopenh264": {},
    "h264_nvenc": {"zerolatency": "1", "delay": "0"},
    "h264_v4l2m2m": {},
    "mpeg4": {"flags": "+qscale", "global_quality": str(4 * 118)},  # quantiser 4, in units of FF_QP2LAMBDA
}
KEYFRAME_INTERVAL = 50  # frames
BITS_PER_PIXEL = 0.1  # for encoders that have no constant quality
PIXELS_PER_THREAD = 2_000_000  # so that up to full HD one core encodes and the others are left to the detector

DEFAULT_FPS = 25.0  # of a source that does not tell its own
TICKS = Fraction(60_000)  # per second: all usual rates in whole numbers; MPEG-4 takes up to 65,535
LEAST_TICKS = 60  # from frame to frame where the clock stands or goes back: a millisecond, Matroska's unit
MAX_GAP_S = 3600.0  # a longer one starts another file; .mp4 cannot hold one of 75 h
KEEP_PARTS = 4  # `keep_bytes` are at least so many segments, so that to remove one leaves most
RETRY_S = 2.0

WRITE_ERRORS = (OSError, av.FFmpegError)


class VideoRecorder(Sink):
    """The annotated video of one source, in one file or in segments.

    Even after `kill -9` a file plays to within `FRAGMENT_S` of its end, or up to the last frame but one where those are
    further apart. Frames have their own times (`Frame.time_s`), none is repeated: a variable frame rate stays one.
    H.264 where PyAV has an encoder for it, else MPEG-4.

    What goes wrong while it records pauses the recording with one warning, and is never raised; a new file is begun as
    soon as that is mended. What was recorded before can be played.

    Args:
        path: `NAME.mp4`, `.mov` or `.mkv`. Segments are called `NAME-20261125-031500.mp4`, by when their first frame
            was captured (UTC), and `…_001.mp4` where there is such a file. Without segments it is overwritten; frames
            of another size are letterboxed to the first one's, and what follows after a pause or after `MAX_GAP_S`
            without frames goes to `NAME_001.mp4`.
        segment_s: seconds of a segment; None for one file. A change of the frame size begins another one too.
        keep_bytes: what all segments of this name may take together: the oldest ones are removed, and nothing else.
        free_floor_bytes: what has to stay free on the disk.

    Raises:
        SinkError: another suffix; the file cannot be written or is an input of the stream; options that do not fit.
    """

    def __init__(
        self,
        path: Path,
        source: SourceInfo,
        *,
        segment_s: float | None = None,
        keep_bytes: int | None = None,
        free_floor_bytes: int = FREE_FLOOR_BYTES,
    ) -> None:
        if path.suffix.lower() not in CONTAINERS:
            raise SinkError(f"cannot record to {path}; expected a name that ends in {', '.join(CONTAINERS)}")
        if segment_s is not None and segment_s < FRAGMENT_S:
            raise SinkError(f"{path}: segments of {segment_s:g} s are too short; expected {FRAGMENT_S:g} s at least")
        if keep_bytes is not None and (segment_s is None or keep_bytes <= 0):
            raise SinkError(
                f"{path}: cannot keep {keep_bytes} bytes of it; expected more than 0, and the length of a segment, as "
                "only whole segments are removed"
            )
        check_writable(path, source)
        self._path = path
        self._folder = path.resolve().parent  # a link may lead to another disk
        self._source = source
        self._segment_s = segment_s
        self._keep_bytes = keep_bytes
        self._free_floor_bytes = free_floor_bytes
        self._own_name = re.compile(rf"{re.escape(path.stem)}-\d{{8}}-\d{{6}}(_\d{{3,}})?{re.escape(path.suffix)}")
        self._segment: _Segment | None = None
        self._begun = False
        self._letterboxed = False
        self._paused = False  # until video is in a file again
        self._retry_at = 0.0

    def write(self, result: Result, drawn_bgr: NDArray[np.uint8]) -> None:
        """Record a frame, uint8 [H, W, 3]; never raises for lack of space or of a working disk."""
        if time.monotonic() < self._retry_at:
            return
        try:
            check_free(self._folder, self._free_floor_bytes, resuming=self._paused and self._segment is None)
            self._record(result, drawn_bgr)
        except WRITE_ERRORS as error:
            self._pause(error.strerror or str(error))

    def close(self) -> None:
        """Complete the file."""
        last = self._segment
        try:
            self._end_segment()
            if last is not None:
                self._remove_oldest(last)
        except WRITE_ERRORS as error:
            logger.warning("the end of %s is lost: %s", self._path, error.strerror or error)

    def _record(self, result: Result, drawn_bgr: NDArray[np.uint8]) -> None:
        at_s = result.frame.time_s
        grown = self._segment is not None and self._is_over(self._segment, at_s, drawn_bgr)
        if grown:
            self._end_segment()
        if self._segment is None:
            self._segment = self._new_segment(result, at_s, drawn_bgr)
        segment = self._segment
        if drawn_bgr.shape[:2] != segment.size_hw:
            if not self._letterboxed:
                logger.warning("%s: the frame size has changed; it is scaled to the first one's", self._path)
            self._letterboxed = True
            drawn_bgr = letterbox(drawn_bgr, segment.size_hw)
        grown |= segment.write(drawn_bgr, at_s)
        if grown:
            self._remove_oldest(segment)
        if grown and self._paused:
            self._paused = False
            logger.info("recording again, to %s", segment.path)

    @property
    def _fps(self) -> Fraction:
        return Fraction(self._source.fps or DEFAULT_FPS).limit_denominator(1001) or Fraction(1, 1001)

    def _is_over(self, segment: _Segment, at_s: float, drawn_bgr: NDArray[np.uint8]) -> bool:
        """Whether this frame belongs to another file."""
        time_s = segment.time_s(at_s)
        if time_s - segment.duration_s > MAX_GAP_S:
            return True
        if self._segment_s is None:
            return False
        full = self._keep_bytes is not None and segment.video_bytes >= self._keep_bytes // KEEP_PARTS > 0
        return full or time_s >= self._segment_s or drawn_bgr.shape[:2] != segment.size_hw

    def _new_segment(self, result: Result, at_s: float, drawn_bgr: NDArray[np.uint8]) -> _Segment:
        path = self._path
        if self._begun or self._segment_s is not None:
            path = next(path for path in self._names(result) if not path.exists())
        height, width = drawn_bgr.shape[:2]
        overwrite = path == self._path
        segment = _Segment(path, (height, width), begin_s=at_s, fps=self._fps, overwrite=overwrite)
        self._begun = True
        return segment

    def _names(self, result: Result) -> Iterator[Path]:
        stem = self._path.stem
        if self._segment_s is not None:
            stem += datetime.fromtimestamp(result.unix_time, timezone.utc).strftime("-%Y%m%d-%H%M%S")
        yield self._path.with_name(stem + self._path.suffix)
        for number in count(1):
            yield self._path.with_name(f"{stem}_{number:03d}{self._path.suffix}")

    def _end_segment(self) -> None:
        segment, self._segment = self._segment, None
        if segment is not None:
            segment.close()

    def _remove_oldest(self, current: _Segment) -> None:
        """Remove segments of this name, also of earlier runs, until the others fit into `keep_bytes`."""
        if self._keep_bytes is not None:
            remove_oldest(self._path.parent, self._own_name, self._keep_bytes, current.path)

    def _pause(self, reason: str) -> None:
        self._retry_at = time.monotonic() + RETRY_S
        with suppress(*WRITE_ERRORS):  # of the same cause
            self._end_segment()
        if not self._paused:
            logger.warning("%s: recording pauses and everything else goes on: %s", self._path, reason)
        self._paused = True


class _Segment:
    """One file, which grows by a whole fragment at a time.

    Args:
        begin_s: time of its first frame, by the clock of all its frames.
        fps: the nominal rate.

    Attributes:
        size_hw: of the frames that it takes; a row or column is repeated where that is odd, as H.264 takes even ones.
        video_bytes: what whole fragments take so far.

    Raises:
        OSError, av.FFmpegError: it cannot be opened or written; here and by all methods.
    """

    def __init__(self, path: Path, size_hw: tuple[int, int], *, begin_s: float, fps: Fraction, overwrite: bool) -> None:
        height, width = (side + side % 2 for side in size_hw)
        encoder = _encoder_for(height, width)
        name, options = CONTAINERS[path.suffix.lower()]
        self.path = path
        self.size_hw = size_hw
        self.video_bytes = 0
        self._header_bytes = 0
        self._origin_s = begin_s  # when time stamp 0 was
        self._pts = -1
        self._torn = False
        # FFmpeg would leave its own file open where it cannot write the header.
        self._file = path.open("wb" if overwrite else "xb")
        self._container = av.open(self._file, "w", format=name, options=options | {"flush_packets": "1"})
        stream = self._container.add_stream(
            encoder, rate=fps, options={"bf": "0", "g": str(KEYFRAME_INTERVAL)} | ENCODERS[encoder]
        )
        assert isinstance(stream, av.VideoStream)
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.time_base = 1 / TICKS
        context.bit_rate = round(BITS_PER_PIXEL * height * width * fps)
        context.thread_count = max(1, round(height * width / PIXELS_PER_THREAD))
        context.colorspace, context.color_range = Colorspace.ITU601, ColorRange.MPEG  # OpenCV's YUV
        self._stream = stream

    @property
    def duration_s(self) -> float:
        """From the first frame to the last one."""
        return float(max(self._pts, 0) / TICKS)

    def time_s(self, at_s: float) -> float:
        """When a frame of that time would be shown: after the one before, also if the clock stands or was set back."""
        return float(max(self._ticks_at(at_s), self._pts + LEAST_TICKS) / TICKS)

    def _ticks_at(self, at_s: float) -> int:
        return round((at_s - self._origin_s) * TICKS)

    def write(self, image_bgr: NDArray[np.uint8], at_s: float) -> bool:
        """Add a frame of that time; True if a fragment was completed."""
        if self._ticks_at(at_s) <= self._pts:
            self._origin_s = at_s - float((self._pts + LEAST_TICKS) / TICKS)
        self._pts = self._ticks_at(at_s)
        height, width = image_bgr.shape[:2]
        if height % 2 or width % 2:
            image_bgr = np.pad(image_bgr, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        yuv = cv2.cvtColor(image_bgr, cv2.COLOR_BGR2YUV_I420)  # uint8 [H * 3 / 2, W]; quicker than FFmpeg's
        frame = av.VideoFrame.from_ndarray(yuv, format="yuv420p")
        frame.pts, frame.time_base = self._pts, 1 / TICKS
        try:
            self._container.mux(self._stream.encode(frame))
            self._file.flush()
        except WRITE_ERRORS:
            self._torn = True
            raise
        before = self.video_bytes
        if self._pts == 0:
            self._header_bytes = self._file.tell()
        self.video_bytes = self._file.tell() - self._header_bytes
        return self.video_bytes > before

    def close(self) -> None:
        """Complete the file; after an error cut off half a fragment, or remove a file without a whole one."""
        try:
            with self._file, self._container:
                if not self._torn:
                    self._container.mux(self._stream.encode())
        except WRITE_ERRORS:
            self._torn = True
            raise
        finally:
            if self._torn and self.video_bytes:
                os.truncate(self.path, self._header_bytes + self.video_bytes)
            elif self._torn:
                self.path.unlink(missing_ok=True)


def _encoder_for(height: int, width: int) -> str:
    """The first of `ENCODERS` that opens here and now: hardware may be absent, or busy with other streams.

    Raises:
        OSError: none does.
    """
    for name, options in ENCODERS.items():
        with suppress(*WRITE_ERRORS, ValueError):  # ValueError: not in this FFmpeg
            trial = av.CodecContext.create(name, "w")
            assert isinstance(trial, av.VideoCodecContext)
            trial.width, trial.height, trial.pix_fmt = width, height, "yuv420p"
            trial.time_base, trial.thread_count = 1 / TICKS, 1
            trial.options = dict(options)
            trial.open()
            return name
    raise OSError(f"PyAV has no encoder for {width}×{height} pixels; tried {', '.join(ENCODERS)}")
