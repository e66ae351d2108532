"""GStreamer, through PyGObject: whether it is here, and `GStreamerSource`, the frames of a pipeline.

https://gstreamer.freedesktop.org/documentation/app/appsink.html, https://lazka.github.io/pgi-docs/Gst-1.0/
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import cv2
import numpy as np
from numpy.typing import NDArray

from ssd_edge.errors import SourceError
from ssd_edge.images import is_cut_off_jpeg
from ssd_edge.runtime.colours import BT601, BT601_FULL, BT709, BT709_FULL, BT2020, BT2020_FULL, YuvColours
from ssd_edge.runtime.host.fixes import GSTREAMER_FIX
from ssd_edge.runtime.host.kind import read_host
from ssd_edge.runtime.pixels import YuvPlanes
from ssd_edge.runtime.redact import clean_text
from ssd_edge.runtime.sources.base import CUT_OFF_S, MAX_DAMAGED, Frame, Source, SourceOptions
from ssd_edge.runtime.sources.pipelines import JPEGS, NVIDIA_DECODER, RTSP

logger = logging.getLogger(__name__)

NEWEST = "drop=true max-buffers=1 sync=false"  # of a live source: only the newest frame waits
ALL = "drop=false max-buffers=2 sync=false"
NVIDIA_DECODERS = frozenset({NVIDIA_DECODER, "nvjpegdec"})
LOOK_NS = 100_000_000  # how soon an error of the pipeline is seen
SUBSAMPLING = {"NV12": (2, 2), "I420": (2, 2), "Y42B": (2, 1), "Y444": (1, 1)}  # pixels per chroma, x and y
# By GstVideoColorMatrix, https://gstreamer.freedesktop.org/documentation/video/video-color.html. What is not known is
# taken for BT.601, as of FFmpeg.
MATRICES = {"BT709": (BT709, BT709_FULL), "BT2020": (BT2020, BT2020_FULL)}


class GStreamer(NamedTuple):
    """PyGObject's modules."""

    gst: Any
    video: Any
    glib: Any


def load_gstreamer() -> GStreamer | None:
    """Its modules; None where PyGObject, or GStreamer's description for it, is not installed."""
    try:
        gi = importlib.import_module("gi")
        _prefer_libgcc()
        for name in ("Gst", "GstVideo", "GstRtsp"):
            gi.require_version(name, "1.0")
        importlib.import_module("gi.repository.GstRtsp")  # the type of what `_Guard.allows_request` gets
        found = GStreamer(*(importlib.import_module(f"gi.repository.{name}") for name in ("Gst", "GstVideo", "GLib")))
    except (ImportError, ValueError):  # ValueError: there is PyGObject without the description
        return None
    if not found.gst.is_initialized():
        found.gst.init(None)
        prefer_elements(found.gst, "Hardware")
    return found


def _prefer_libgcc() -> None:
    """Let C++ plugins unwind their exceptions by libgcc.

    Debian's and Ubuntu's GStreamer brings libunwind, which has functions of the same names. OpenCV has loaded libstdc++
    with libgcc by now; a plugin that finds libunwind's function crashes where it throws, as `srtsrc` does when it is
    closed.
    """
    with suppress(OSError):  # a system without it has nothing to mix
        ctypes.CDLL("libgcc_s.so.1", mode=ctypes.RTLD_GLOBAL)


def has_element(name: str) -> bool:
    """GStreamer is here, with this element."""
    gstreamer = load_gstreamer()
    return gstreamer is not None and gstreamer.gst.ElementFactory.find(name) is not None


def gstreamer_decodes(options: SourceOptions) -> bool:
    """It is asked for; or the best there is, which it is on a Jetson.

    Raises:
        SourceError: it is asked for and is not here; with the fix.
    """
    if options.hwaccel == "gstreamer":
        require_gstreamer("--hwaccel gstreamer")
        return True
    return options.hwaccel == "auto" and read_host().jetson and has_element(NVIDIA_DECODER)


def require_gstreamer(use: str) -> GStreamer:
    """Its modules.

    Args:
        use: what needs it, for the message.

    Raises:
        SourceError: it is not here; with the fix.
    """
    found = load_gstreamer()
    if found is None:
        raise SourceError(f"{use}: there is no PyGObject with GStreamer; {GSTREAMER_FIX}")
    return found


def prefer_elements(gst: Any, kind: str) -> None:
    """Let `decodebin` take video decoders of a kind before others: GStreamer 1.22 ranks VAAPI's below its own.

    Args:
        kind: part of a factory's class, such as "Hardware".
    """
    for factory in _decoders(gst):
        if kind in factory.get_metadata("klass") and "Video" in factory.get_metadata("klass"):
            factory.set_rank(max(factory.get_rank(), gst.Rank.PRIMARY + 1))


def hardware_decoders(gst: Any) -> list[str]:
    """The names of the elements that decode video or JPEG in hardware; of NVIDIA's, not all say so."""
    return sorted(
        factory.get_name()
        for factory in _decoders(gst)
        if "Hardware" in factory.get_metadata("klass") or factory.get_name() in NVIDIA_DECODERS
    )


def _decoders(gst: Any) -> list[Any]:
    return list(gst.ElementFactory.list_get_elements(gst.ELEMENT_FACTORY_TYPE_DECODER, gst.Rank.NONE))


class GStreamerSource(Source):
    """The frames of a pipeline that ends in NV12, I420, Y42B, Y444 or BGRx. It is open once its first frame is there.

    JPEGs that are cut off go no further than an element called `JPEGS`: decoders fill them with grey, or fail. An
    `rtspsrc` called `RTSP` sends nothing to other hosts than its own, unless redirects are allowed.

    Args:
        name: without any password.
        pipeline: in the words of `gst-launch-1.0`, up to the planes.
        live: only the newest frame waits, and the end is an error.
        advice: what to check when something is wrong.
        paths: of a file.

    Raises:
        SourceError: GStreamer is not here, or knows no such pipeline; there is no frame, or none in time.
    """

    def __init__(
        self,
        name: str,
        pipeline: str,
        options: SourceOptions,
        *,
        live: bool,
        advice: str,
        paths: tuple[Path, ...] = (),
    ) -> None:
        self.name, self.live, self.paths = name, live, paths
        self._options, self._advice = options, advice
        self._gst, self._video, glib = require_gstreamer(name)
        try:
            self._pipeline = self._gst.parse_launch(f"{pipeline} ! appsink name=frames {NEWEST if live else ALL}")
        except glib.Error as error:  # such as an element that is not installed
            raise self._failed(f"GStreamer says: {error.message}") from None
        self._sink, self._bus = self._pipeline.get_by_name("frames"), self._pipeline.get_bus()
        self._error = self._warning = ""
        self._turn = 0
        self._origin_s: float | None = None
        self._guard = self._set_guard()
        try:
            self._pipeline.set_state(self._gst.State.PLAYING)  # a failure is told by its message
            self._first = self._pull()
            if self._first is None:
                raise self._failed("was opened but gives no frame")
            self.decoder = self._decoder_name()
            info = self._video.VideoInfo.new_from_caps(self._first.get_caps())
            self.fps = info.fps_n / info.fps_d if 0 < info.fps_n <= 1000 * info.fps_d else None
        except BaseException:
            self.close()
            raise

    def frames(self) -> Iterator[Frame]:
        index = damaged_in_a_row = 0
        end_s = 0.0
        sample, self._first = self._first, None
        while sample is not None:
            frame = self._frame_of(sample, index)
            sample = None  # its memory is the decoder's
            self.corrupt += frame.damaged
            damaged_in_a_row = damaged_in_a_row + 1 if frame.damaged else 0
            if not frame.damaged or self._options.damaged == "keep":
                yield frame
            elif damaged_in_a_row >= MAX_DAMAGED:
                raise self._failed(f"{MAX_DAMAGED} frames in a row are damaged")
            index += 1
            sample = self._pull()
            end_s = frame.media_time_s or 0.0
        if self.live:
            raise self._failed(f"stopped after {index} frames")
        self._warn_if_cut_off(end_s)

    def close(self) -> None:
        self._pipeline.set_state(self._gst.State.NULL)

    def _set_guard(self) -> _Guard:
        rtsp, jpegs = self._pipeline.get_by_name(RTSP), self._pipeline.get_by_name(JPEGS)
        host = urlsplit(rtsp.get_property("location")).hostname if rtsp is not None else None
        guard = _Guard(self._gst, host)
        if rtsp is not None and not self._options.allow_redirects:
            rtsp.connect("before-send", guard.allows_request)
        if jpegs is not None:
            jpegs.get_static_pad("src").add_probe(self._gst.PadProbeType.BUFFER, guard.passes_jpeg)
        return guard

    def _pull(self) -> Any:
        """The next sample; None at the end.

        Raises:
            SourceError: the pipeline failed, or nothing came in time.
        """
        deadline = time.monotonic() + self._options.timeout_s
        while True:
            sample = self._sink.emit("try-pull-sample", LOOK_NS)
            self._read_messages()
            self.corrupt += self._guard.take_cut_off()
            if sample is not None:
                return sample
            if problem := self._guard.refused or self._error:
                raise self._failed(problem)
            if self._sink.get_property("eos"):
                return None
            if time.monotonic() > deadline:
                raise self._failed(f"no frame within {self._options.timeout_s:g} s{self._warning}")

    def _read_messages(self) -> None:
        """All that wait: they would pile up over months."""
        while (message := self._bus.pop()) is not None:
            if message.type == self._gst.MessageType.ERROR:
                self._error = self._error or f"GStreamer says: {_text_of(*message.parse_error())}"
            elif message.type == self._gst.MessageType.WARNING:
                self._warning = f" (GStreamer says: {_text_of(*message.parse_warning())})"
            elif message.type == self._gst.MessageType.TAG:
                _, orientation = message.parse_tag().get_string("image-orientation")
                if turned := re.fullmatch(r"rotate-(\d+)", orientation or ""):  # clockwise
                    self._turn = -int(turned[1])

    def _failed(self, problem: str) -> SourceError:
        return SourceError(f"{self.name}: {clean_text(problem)}; {self._advice}")

    def _elements(self) -> Iterator[tuple[str, Any]]:
        """Class and element, of all that the pipeline has by now."""
        elements = self._pipeline.iterate_recurse()
        while (found := elements.next())[0] == self._gst.IteratorResult.OK:
            if factory := found[1].get_factory():
                yield factory.get_metadata("klass"), found[1]

    def _decoder_name(self) -> str:
        for klass, element in self._elements():
            if "Decoder" in klass and ("Video" in klass or "Image" in klass):
                return f"{element.get_factory().get_name()} (GStreamer)"
        return "GStreamer"

    def _warn_if_cut_off(self, end_s: float) -> None:
        """Of a file with one stream: sound may go on longer than the picture."""
        known, duration_ns = self._pipeline.query_duration(self._gst.Format.TIME)
        duration_s = duration_ns / self._gst.SECOND
        streams = sum(element.numsrcpads for klass, element in self._elements() if "Demuxer" in klass)
        if known and streams == 1 and duration_s - end_s > max(CUT_OFF_S, 2 / (self.fps or 1), 0.02 * duration_s):
            logger.warning(
                "%s seems to be cut off or damaged: its last frame is at %.1f s of the %.1f s it announces",
                *(self.name, end_s, duration_s),
            )

    def _frame_of(self, sample: Any, index: int) -> Frame:
        pixels, buffer = pixels_of_sample(sample, self._video), sample.get_buffer()
        if isinstance(pixels, YuvPlanes):  # as all that a container says how to turn
            pixels = pixels.turned(self._turn)
        media_time_s = None
        if buffer.pts != self._gst.CLOCK_TIME_NONE:
            time_s = buffer.pts / self._gst.SECOND
            self._origin_s = time_s if self._origin_s is None else self._origin_s
            media_time_s = time_s - self._origin_s
        damaged = buffer.has_flags(self._gst.BufferFlags.CORRUPTED)
        return Frame(pixels, index, time.monotonic(), self.name, media_time_s, damaged=damaged)


class _Guard:
    """What GStreamer's own threads ask. It holds no pipeline, which holds it: Python would never free either."""

    def __init__(self, gst: Any, host: str | None) -> None:
        self._gst, self._host = gst, host
        self._cut_off, self._taken = 0, 0
        self.refused = ""

    def take_cut_off(self) -> int:
        """JPEGs that were dropped since it was last asked."""
        before, self._taken = self._taken, self._cut_off
        return self._taken - before

    def passes_jpeg(self, _: Any, info: Any) -> Any:
        """Of a pad's probe."""
        buffer = info.get_buffer()
        if not is_cut_off_jpeg(buffer.extract_dup(0, buffer.get_size())):
            return self._gst.PadProbeReturn.OK
        self._cut_off += 1
        return self._gst.PadProbeReturn.DROP

    def allows_request(self, _: Any, message: Any) -> bool:
        """Of `rtspsrc`, which follows redirects by itself."""
        host = urlsplit(message.parse_request()[2]).hostname
        if host in (None, self._host):
            return True
        self.refused = f"it sends to another host, {host}; give its address, or --allow-redirects"
        return False


def pixels_of_sample(sample: Any, video: Any) -> YuvPlanes | NDArray[np.uint8]:
    """The picture of a sample, copied: its buffer goes back to the decoder. BGRx becomes uint8 [H, W, 3].

    Args:
        video: the module `GstVideo`.
    """
    buffer, caps = sample.get_buffer(), sample.get_caps()
    info = video.VideoInfo.new_from_caps(caps)
    layout = video.buffer_get_video_meta(buffer) or info  # where rows and planes really are
    strides, offsets = layout.stride, layout.offset
    data = np.frombuffer(buffer.extract_dup(0, buffer.get_size()), np.uint8)

    def plane(number: int, *shape: int) -> NDArray[np.uint8]:
        return np.ndarray(shape, np.uint8, data, offsets[number], (strides[number], *shape[2:], 1))

    width, height, form = info.width, info.height, caps.get_structure(0).get_string("format")
    if form == "BGRx":
        return np.asarray(cv2.cvtColor(plane(0, height, width, 4), cv2.COLOR_BGRA2BGR), np.uint8)
    per_x, per_y = SUBSAMPLING[form]
    chroma_size = -(-height // per_y), -(-width // per_x)
    if form == "NV12":
        chroma: tuple[NDArray[np.uint8], ...] = (plane(1, *chroma_size, 2),)
    else:
        chroma = plane(1, *chroma_size), plane(2, *chroma_size)
    return YuvPlanes(plane(0, height, width), chroma, _colours_of(info.colorimetry, video))


def _colours_of(colorimetry: Any, video: Any) -> YuvColours:
    limited, full = MATRICES.get(colorimetry.matrix.value_nick.upper(), (BT601, BT601_FULL))
    return full if colorimetry.range == getattr(video.VideoColorRange, "0_255", 1) else limited


def _text_of(error: Any, debug: str | None) -> str:
    """What a message says; the last line of its debugging text has the reason, such as "Not Found (404)"."""
    lines = (debug or "").splitlines()
    detail = f" ({lines[-1].strip()})" if len(lines) > 1 else ""
    return f"{error.message.rstrip('.')}{detail}"
