"""Which sink writes a path: an annotated video, an image or a folder of images."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from ssd_edge.errors import SinkError
from ssd_edge.images import IMAGE_SUFFIXES
from ssd_edge.runtime.sinks.base import Recording, Sink
from ssd_edge.runtime.sinks.images import ImageSink, ImagesSink
from ssd_edge.runtime.sinks.video_opencv import VIDEO_CODES, VideoSink
from ssd_edge.runtime.sources.base import SourceInfo


def save_sink(path: Path, source: SourceInfo, recording: Recording | None = None) -> Sink:
    """The sink that fits the name: a video (.mp4, .mov, .mkv, .avi), one image, or else a folder of images.

    Args:
        recording: of a video.

    Raises:
        SinkError: another suffix, or as the sink it is.
    """
    suffix = path.suffix.lower()
    if recording is not None and suffix not in VIDEO_CODES:
        raise SinkError(f"{path} is no video, and only a video comes in segments; expected a name that ends in .mp4")
    if suffix in VIDEO_CODES:
        if recording is not None or suffix != ".avi":
            from ssd_edge.runtime.sinks.video_pyav import VideoRecorder  # loads FFmpeg

            return VideoRecorder(path, source, **asdict(recording or Recording()))
        return VideoSink(path, source)
    if suffix in IMAGE_SUFFIXES:
        return ImageSink(path, source)
    if suffix and not path.is_dir():
        raise SinkError(
            f"cannot save to {path}: {suffix} is no known kind; expected {', '.join(VIDEO_CODES)}, an image, "
            "or the name of a folder"
        )
    return ImagesSink(path, source)
