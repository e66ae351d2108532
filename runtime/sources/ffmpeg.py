"""`FfmpegSource`: whatever FFmpeg reads and decodes, through PyAV. `docs/stream.md` describes what users see of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from ssd_edge.errors import SourceError
from ssd_edge.runtime.colours import BT601_FULL, colours_of_ffmpeg
from ssd_edge.runtime.cuda.device_frames import DEFAULT_STREAM, Nv12Frame
from ssd_edge.runtime.cuda.dlpack import tensor_of
from ssd_edge.runtime.pixels import GpuPicture, Pixels, YuvPlanes
from ssd_edge.runtime.redact import clean_text
from ssd_edge.runtime.sources.base import CUT_OFF_S, MAX_DAMAGED, Frame, Source, SourceOptions
from ssd_edge.runtime.sources.hardware import NAMES, check_taken, decoder_of, is_in_hardware
from ssd_edge.runtime.sources.jpeg import MAX_PIXELS, JpegDecoder

logger = logging.getLogger(__name__)

# A clock of MPEG-TS that goes back would be taken for one that overflowed, which is 26 hours; Timeline sees to both.
CONTAINER_OPTIONS = {"correct_ts_overflow": "0"}
MICROSECONDS = 1e6  # FFmpeg's AV_TIME_BASE, in which a container's times are

PLANAR = frozenset({"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "yuv440p", "yuvj440p"})
VideoPacket: TypeAlias = "Packet[VideoStream]"
SUBSAMPLED = {(2, 2): "yuv420p", (2, 1): "yuv422p", (1, 1): "yuv444p"}  # by luma samples per chroma sample, x and y


class FfmpegSource(Source):
    """The video of an opened container.

    Frames have the time stamps that the container gives them, counted from its start. Each is given in its own size,
    also where the stream changes that, and turned as its container says.

    Args:
        container: closed by the source.
        live: it does not wait for the reader.
        paths: of a file.
        asking: called before each frame is read, for time-outs.

    Raises:
        SourceError: there is no video, or no decoder for it.
    """

    def __init__(
        self,
        name: str,
        container: InputContainer,
        options: SourceOptions,
        *,
        live: bool,
        paths: tuple[Path, ...] = (),
        asking: Callable[[], None] = lambda: None,
    ) -> None:
        self.name, self.live, self.paths = name, live, paths
        self._asking = asking
        self._container, self._options = container, options
        self._stream = _video_of(container, name)
        self._codec = codec = decoder_of(name, self._stream.codec_context, options)
        codec.thread_count = 1 if live or codec.is_hwaccel else options.decoder_threads
        codec.thread_type = "AUTO"
        codec.options = {"max_pixels": str(MAX_PIXELS)}
        rate = self._stream.average_rate or self._stream.guessed_rate or 0
        self.fps = float(rate) if 0 < rate <= 1000 else None  # some streams give their clock: 90,000
        self.frame_count = self._stream.frames or None if not live else None  # the container's own count
        self.decoder = f"{codec.name} (FFmpeg)"
        self._jpegs = JpegDecoder(None if codec.is_hwaccel else codec) if codec.name == "mjpeg" else None
        self._rotation = 0
        self._damaged_pts: set[int | None] = set()
        self._origin_s: float | None = None
        if not live and container.start_time is not None:
            self._origin_s = container.start_time / MICROSECONDS

    def frames(self) -> Iterator[Frame]:
        index = damaged_in_a_row = 0
        end_s = 0.0
        self._asking()
        for packet in self._packets():
            before = self.corrupt
            decoded = self._decode_frames(packet) if self._jpegs is None else self._decode_jpeg(self._jpegs, packet)
            for picture, damaged in decoded:
                media_time_s = self._media_time_s(picture.pts)
                if not damaged or self._options.damaged == "keep":
                    pixels = self._pixels_of(picture)
                    yield Frame(pixels, index, time.monotonic(), self.name, media_time_s, damaged=damaged)
                    damaged_in_a_row = 0
                    self._asking()
                index += 1
                end_s = max(end_s, media_time_s or 0.0)
            damaged_in_a_row += self.corrupt - before
            if damaged_in_a_row >= MAX_DAMAGED:
                raise SourceError(
                    f"{self.name}: {MAX_DAMAGED} frames in a row are damaged; check the connection, or --damaged keep"
                )
        if index == 0:
            raise SourceError(f"{self.name} was opened but gives no frame; is it in use, or damaged?")
        if self.live:
            raise SourceError(f"{self.name} stopped after {index} frames; check the device or the connection")
        self._warn_if_cut_off(index, end_s)

    def close(self) -> None:
        self._container.close()

    def _packets(self) -> Iterator[VideoPacket]:
        """Of the video, until the end.

        Raises:
            SourceError: nothing came in time, or the connection broke.
        """
        failures = 0
        while True:
            try:
                for packet in self._container.demux(self._stream):
                    failures = 0
                    yield packet
                return
            except av.InvalidDataError:  # a damaged part of the container; what follows may be whole
                failures += 1
                self.corrupt += 1
                if failures >= MAX_DAMAGED:
                    raise SourceError(f"{self.name}: it cannot be read on; it is damaged") from None
            except IndexError:  # of PyAV: a packet of a stream that came up later; it knows it when it begins again
                continue
            except (av.ExitError, TimeoutError):
                raise SourceError(f"{self.name}: no frame within {self._options.timeout_s:g} s") from None
            except (OSError, av.FFmpegError) as error:
                raise SourceError(f"{self.name} broke off: {clean_text(reason_of(error))}") from None

    def _decode_frames(self, packet: VideoPacket) -> list[tuple[VideoFrame, bool]]:
        """The pictures that come out for a packet, and whether each is damaged."""
        try:
            pictures = self._codec.decode(packet if packet.size else None)
        except av.EOFError:
            return []
        except av.FFmpegError:
            self.corrupt += 1
            return []
        if packet.is_corrupt and len(self._damaged_pts) < MAX_DAMAGED:
            self._damaged_pts.add(packet.pts)  # its picture may come later
        found = [(picture, picture.is_corrupt or picture.pts in self._damaged_pts) for picture in pictures]
        self._damaged_pts.difference_update(picture.pts for picture in pictures)
        self.corrupt += sum(damaged for _, damaged in found)
        return found

    def _decode_jpeg(self, jpegs: JpegDecoder, packet: VideoPacket) -> list[tuple[VideoFrame, bool]]:
        if not packet.size:
            return []
        if (picture := jpegs.decode(packet)) is not None:
            self._rotation = picture.rotation
            return [(picture, False)]
        self.corrupt += 1
        if (rescued := jpegs.rescue(packet)) is None:
            return []
        return [(rescued, True)]

    def _media_time_s(self, pts: int | None) -> float | None:
        if pts is None or not self._stream.time_base:
            return None
        time_s = float(pts * self._stream.time_base)
        if self._origin_s is None:
            self._origin_s = time_s
        return time_s - self._origin_s

    def _pixels_of(self, picture: VideoFrame) -> Pixels:
        rotation = picture.rotation or self._rotation
        if is_in_hardware(picture):
            self.decoder = f"{self._codec.name} ({NAMES[picture.format.name]})"
            if self._options.gpu and not rotation and is_nv12_on_gpu(picture):
                return gpu_picture_of(picture)
            pixels: YuvPlanes | NDArray[np.uint8] = downloaded(picture)
        else:
            if self._codec.is_hwaccel:  # another profile or size than the hardware has
                what = f"{self._codec.name} in {picture.format.name}, {picture.width}×{picture.height}"
                check_taken(self.name, what, self._options)
            pixels = pixels_of(picture)
        return turned(pixels, rotation) if rotation else pixels

    def _warn_if_cut_off(self, found: int, end_s: float) -> None:
        """Containers' counts are often off by a frame, and estimates of them by any number."""
        stream, announced = self._stream, self.frame_count
        if announced:
            if found < 0.99 * announced - 1:
                logger.warning(
                    "%s seems to be cut off or damaged: %d of the %d frames it announces could be read",
                    self.name,
                    found,
                    announced,
                )
            return
        duration_s = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else None
        if duration_s is None and self._container.duration and len(self._container.streams) == 1:
            duration_s = self._container.duration / MICROSECONDS  # of all streams, such as sound that goes on
        if duration_s and duration_s - end_s > max(CUT_OFF_S, 2 / (self.fps or 1), 0.02 * duration_s):
            logger.warning(
                "%s seems to be cut off or damaged: its last frame is at %.1f s of the %.1f s it announces",
                self.name,
                end_s,
                duration_s,
            )


def pixels_of(picture: VideoFrame) -> YuvPlanes | NDArray[np.uint8]:
    """A picture in the processor's memory: its own planes where they are 8-bit YUV, without a copy.

    Of more bits, the planes are rounded to 8. RGB, grey and palettes become BGR; an alpha channel is left out.
    """
    layout = picture.format
    if layout.name not in PLANAR and layout.name != "nv12":
        chroma = layout.components[1:3]
        if len(chroma) < 2 or layout.is_rgb or layout.has_palette:
            return np.ascontiguousarray(picture.to_ndarray(format="bgr24"))
        ratio = round(picture.width / chroma[0].width), round(picture.height / chroma[0].height)
        picture = picture.reformat(format=SUBSAMPLED.get(ratio, "yuv420p"))
        layout = picture.format
    colours = colours_of_ffmpeg(picture.colorspace, picture.color_range)
    if layout.name.startswith("yuvj") and colours.black:
        colours = BT601_FULL
    luma, *chroma_planes = (
        np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, -1) for plane in picture.planes
    )  # each keeps the picture's memory
    luma = luma[:, : picture.width]
    if layout.name == "nv12":
        width = picture.planes[1].width
        return YuvPlanes(luma, (chroma_planes[0][:, : 2 * width].reshape(-1, width, 2),), colours)
    widths = (plane.width for plane in picture.planes[1:])
    return YuvPlanes(luma, tuple(p[:, :w] for p, w in zip(chroma_planes, widths, strict=True)), colours)


def is_nv12_on_gpu(picture: VideoFrame) -> bool:
    """CUDA's kernels can read it: it has 8 bits in 4:2:0. Its sides are even, as FFmpeg rounds them up (nvdec.c)."""
    planes = picture.planes
    # PyAV 17.1 does not name the format of the planes; 10 bits (P010) have two planes too.
    return picture.format.name == "cuda" and len(planes) == 2 and tensor_of(planes[0].__dlpack__()).bits == 8


def gpu_picture_of(picture: VideoFrame) -> GpuPicture:
    """A picture in NV12 that NVDEC has left on the GPU.

    Any number of them may be held: FFmpeg copies a picture out of the few surfaces that the decoder has, into memory
    of the picture alone, unless AV_HWACCEL_FLAG_UNSAFE_OUTPUT is set (nvdec_retrieve_data in libavcodec/nvdec.c). It
    does so on the default stream of CUDA (cuda_context_init in libavutil/hwcontext_cuda.c).
    """
    colours = colours_of_ffmpeg(picture.colorspace, picture.color_range)
    luma, chroma = picture.planes
    surface = Nv12Frame(luma, chroma, colours, stream=DEFAULT_STREAM)
    return GpuPicture(surface, (picture.height, picture.width), partial(downloaded, picture))


def downloaded(picture: VideoFrame) -> YuvPlanes:
    """A picture from the hardware's memory, of 8 bits in 4:2:0 or 4:4:4."""
    layout = "yuv444p" if len(picture.planes) == 3 else "nv12"
    # Not the picture's own reformatter, which other threads may use. PyAV 17.1 leaves the colours behind.
    planes = pixels_of(VideoReformatter().reformat(picture, format=layout))
    assert isinstance(planes, YuvPlanes)
    return replace(planes, colours=colours_of_ffmpeg(picture.colorspace, picture.color_range))


def turned(pixels: YuvPlanes | NDArray[np.uint8], degrees: int) -> YuvPlanes | NDArray[np.uint8]:
    """Turned counter-clockwise by a multiple of 90°."""
    if isinstance(pixels, YuvPlanes):
        return pixels.turned(degrees)
    return np.ascontiguousarray(np.rot90(pixels, round(degrees / 90) % 4))


def reason_of(error: Exception) -> str:
    """What an error of FFmpeg says, without the address, which can hold a password."""
    return getattr(error, "strerror", None) or str(error)


def _video_of(container: InputContainer, name: str) -> VideoStream:
    """The stream to show: no cover of a song.

    Raises:
        SourceError: there is none, or none that can be decoded.
    """
    found = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not found:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise SourceError(f"{name} has no video; it has {kinds}")
    best = container.streams.best("video")
    stream = best if best in found and isinstance(best, VideoStream) else found[0]
    if stream.codec_context is None:
        raise SourceError(f"{name}: FFmpeg has no decoder for its video; convert it to H.264, or set the camera to it")
    return stream
