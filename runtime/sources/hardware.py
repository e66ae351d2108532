"""Decoders in hardware that FFmpeg drives: NVIDIA's (NVDEC) and Intel's (Quick Sync Video).

What is said of them here was read in the sources of PyAV 17.1, 18.1 and 19.0 (av/codec/hwaccel.py,
av/video/codeccontext.py) and of FFmpeg 8 (libavutil/hwcontext_cuda.c, libavcodec/nvdec.c).
"""

from __future__ import annotations

import ctypes
import logging

import av
from av.codec import Codec, CodecContext
from av.codec.hwaccel import HWAccel
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from ssd_edge.errors import SourceError
from ssd_edge.runtime.gpu_use import driver_problem
from ssd_edge.runtime.sources.base import SourceOptions

logger = logging.getLogger(__name__)

NAMES = {"cuda": "NVDEC", "qsv": "Quick Sync"}  # by FFmpeg's name of the device, and of the pixel format
NVDEC_LIBRARY = "libnvcuvid.so.1"
_held: dict[str, HWAccel] = {}  # a device of each kind, for the life of the process


def accelerator_of(options: SourceOptions) -> HWAccel | None:
    """What decodes in hardware, for `av.open`; None: the processor, or something other than FFmpeg.

    Pictures stay where they are decoded. A video that the hardware does not take is decoded on the processor.

    Call it before a detector opens the GPU: FFmpeg wants the GPU's context with flags of its own, and refuses one that
    another library has made. The device that is opened here keeps that context for all that comes later.

    Raises:
        SourceError: what is asked for by name is not here.
    """
    kind = options.hwaccel
    if kind == "auto":
        kind = "cuda" if options.gpu else "none"
    if kind not in NAMES:
        return None
    problem = _problem_of(kind)
    if problem is None:
        return HWAccel(kind, is_hw_owned=True)
    if options.hwaccel != "auto":
        raise SourceError(f"--hwaccel {kind}: {problem}; --hwaccel auto decodes on the processor where it has to")
    logger.debug("video is decoded on the processor: %s", problem)
    return None


def decoder_of(name: str, codec: VideoCodecContext, options: SourceOptions) -> VideoCodecContext:
    """What decodes a stream: its container's own context, or one for Quick Sync, which has decoders of other names.

    Raises:
        SourceError: hardware is asked for by name, and does not take this codec.
    """
    if options.hwaccel == "qsv" and f"{codec.name}_qsv" in av.codecs_available:
        return with_decoder(codec, f"{codec.name}_qsv", accelerator_of(options))
    if not codec.is_hwaccel or codec.name == "mjpeg":  # damaged JPEGs are found on the processor
        check_taken(name, codec.name, options)
    return codec


def with_decoder(codec: VideoCodecContext, decoder: str, accelerator: HWAccel | None) -> VideoCodecContext:
    """Another decoder, by its name, for what a context would decode."""
    other = CodecContext.create(decoder, "r", hwaccel=accelerator)
    assert isinstance(other, VideoCodecContext)
    other.extradata = codec.extradata
    return other


def check_taken(name: str, what: str, options: SourceOptions) -> None:
    """Say of a source that the processor decodes it.

    Args:
        what: the hardware does not take.

    Raises:
        SourceError: hardware is asked for by name.
    """
    if options.hwaccel in NAMES:
        raise SourceError(
            f"{name}: {NAMES[options.hwaccel]} does not take {what}; give --hwaccel auto, which decodes on the "
            "processor where it has to, or another video, such as H.264 in 4:2:0"
        )


def is_in_hardware(picture: VideoFrame) -> bool:
    """It lies in the memory of what has decoded it."""
    return picture.format.name in NAMES


def _problem_of(kind: str) -> str | None:
    """Why hardware cannot be used here, and the fix; None: it can."""
    if kind in _held:
        return None
    if kind == "cuda" and (problem := _nvdec_problem()) is not None:
        return problem
    try:
        device = HWAccel(kind, is_hw_owned=True).create(Codec("h264_qsv" if kind == "qsv" else "h264", "r"))
    except (OSError, ValueError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if kind == "qsv":  # PyAV's wheels for Linux have Quick Sync without VAAPI, on which it stands there
            return f"this PyAV cannot use Quick Sync ({reason}); --hwaccel gstreamer may"
        return f"FFmpeg cannot use the GPU ({reason}), as where this process opened it before; open sources first"
    _held[kind] = device
    return None


def _nvdec_problem() -> str | None:
    """Why there is no NVDEC, and the fix. A Jetson has another decoder, and its GPU is left alone."""
    if (problem := driver_problem()) is not None:
        return f"no NVIDIA GPU can be used here ({problem}); see `ssd-edge doctor`"
    try:
        ctypes.CDLL(NVDEC_LIBRARY)
    except OSError as error:
        return (
            f"the NVIDIA driver here has no decoder ({error}); a container needs `video` in NVIDIA_DRIVER_CAPABILITIES"
        )
    return None
