"""What GStreamer is asked for, in the words of `gst-launch-1.0`: everything up to planes in the processor's memory.

`decodebin` chooses the decoders, and not a chain such as `h264parse ! nvv4l2decoder` per codec: it takes the one of the
highest rank that accepts the stream, which is `nvv4l2decoder` on a Jetson (primary + 11; it gives the parser in front
too), and it knows every codec and container. With `caps`, sound is not decoded.
https://gstreamer.freedesktop.org/documentation/playback/decodebin.html,
https://docs.nvidia.com/jetson/archives/r36.4/DeveloperGuide/SD/Multimedia/AcceleratedGstreamer.html
"""

from __future__ import annotations

from pathlib import Path

from ssd_edge.runtime.sources.base import SourceOptions
from ssd_edge.runtime.sources.camera_mode import MJPG_FORMATS, CameraMode

NVIDIA_DECODER, NVIDIA_CONVERTER = "nvv4l2decoder", "nvvidconv"
JPEGS, RTSP = "jpegs", "rtsp"  # names of elements that `GStreamerSource` looks after
JITTER_MS = 200  # how long a packet that is late, or lost, may hold up those after it
DECODE = 'decodebin caps="video/x-raw(ANY)" expose-all-streams=false'
PLANES = "video/x-raw, format=(string){NV12, I420, Y42B, Y444}"  # of what `videoconvert` need not convert
# GStreamer's names of V4L2's formats. https://gstreamer.freedesktop.org/documentation/additional/design/mediatype-video-raw.html
GSTREAMER_FORMATS = {
    "NV12": "NV12",
    "YU12": "I420",
    "YV12": "YV12",
    "YUYV": "YUY2",
    "UYVY": "UYVY",
    "BGR3": "BGR",
    "RGB3": "RGB",
    "GREY": "GRAY8",
}
NVIDIA_FORMATS = frozenset({"NV12", "I420", "YUY2", "UYVY", "GRAY8"})  # that nvvidconv reads from memory


def csi_pipeline(number: int, size_wh: tuple[int, int], fps: float) -> str:
    """A CSI camera of a Jetson."""
    width, height = size_wh
    return (
        f"nvarguscamerasrc sensor-id={number} ! "
        f"video/x-raw(memory:NVMM), width={width}, height={height}, framerate={round(1000 * fps)}/1000 ! "
        f"{to_memory(nvidia=True)}"
    )


def file_pipeline(path: Path, *, nvidia: bool) -> str:
    """A video file. Its URI, which makes a `filesrc`, needs no quotes, whatever characters the name has."""
    return f"{path.absolute().as_uri()} ! {DECODE} ! {to_memory(nvidia=nvidia)}"


def rtsp_pipeline(url: str, options: SourceOptions, *, nvidia: bool) -> str:
    """The video of an RTSP server.

    As with FFmpeg's defaults, certificates are not verified: those of cameras are self-signed.
    """
    return (
        f"rtspsrc name={RTSP} location={quoted(url)} protocols={options.transport} latency={JITTER_MS} "
        f"tls-validation-flags=0 ! application/x-rtp, media=video ! {DECODE} ! {to_memory(nvidia=nvidia)}"
    )


def srt_pipeline(url: str, *, nvidia: bool) -> str:
    """A stream over SRT; the query of its address is that of `srtsrc`."""
    return f"srtsrc uri={quoted(url)} ! {DECODE} ! {to_memory(nvidia=nvidia)}"


def camera_pipeline(source: str, mode: CameraMode, *, nvidia: bool, nvidia_jpeg: bool = False) -> str:
    """A V4L2 camera.

    Args:
        source: the element that gives its frames, such as `v4l2src device=/dev/video0`.
        nvidia_jpeg: `nvv4l2decoder` decodes JPEG on this machine. It needs a parser, which `jpegdec` does without.
    """
    size = f"width={mode.width}, height={mode.height}"
    if mode.fps:  # cameras give 30000/1001 and the like, which V4L2's answers are rounded from
        size += f", framerate=[{round(990 * mode.fps)}/1000, {round(1010 * mode.fps)}/1000]"
    if mode.pixel_format in MJPG_FORMATS:
        decoder = f"jpegparse ! {NVIDIA_DECODER} mjpeg=1" if nvidia_jpeg else "jpegdec"
        jpegs = f"image/jpeg, {size} ! identity name={JPEGS} silent=true"
        return f"{source} ! {jpegs} ! {decoder} ! {to_memory(nvidia=nvidia and nvidia_jpeg)}"
    name = GSTREAMER_FORMATS[mode.pixel_format]
    convert = to_memory(nvidia=nvidia and name in NVIDIA_FORMATS)
    return f"{source} ! video/x-raw, format={name}, {size} ! {convert}"


def to_memory(*, nvidia: bool) -> str:
    """From what a decoder gives to planes that the processor reads."""
    return f"{NVIDIA_CONVERTER} ! video/x-raw, format=NV12" if nvidia else f"videoconvert ! {PLANES}"


def quoted(text: str) -> str:
    """A text as one value of a pipeline's description."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
