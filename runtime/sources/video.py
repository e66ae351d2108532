"""Video files as a source."""

from __future__ import annotations

import logging
from pathlib import Path

import av

from ssd_edge.errors import SourceError
from ssd_edge.runtime.sources.base import Source, SourceOptions
from ssd_edge.runtime.sources.ffmpeg import CONTAINER_OPTIONS, FfmpegSource, reason_of
from ssd_edge.runtime.sources.gstreamer import GStreamerSource, gstreamer_decodes, has_element
from ssd_edge.runtime.sources.hardware import accelerator_of
from ssd_edge.runtime.sources.pipelines import NVIDIA_CONVERTER, file_pipeline

logger = logging.getLogger(__name__)


def open_video(path: Path, options: SourceOptions) -> Source:
    """Open a video file.

    Raises:
        SourceError: it cannot be read.
    """
    if gstreamer_decodes(options) and (path.is_file() or options.hwaccel == "gstreamer"):
        try:
            return _open_with_gstreamer(path, options)
        except SourceError as error:
            if options.hwaccel == "gstreamer":
                raise
            logger.info("%s; FFmpeg reads it instead", error)
    accelerator = accelerator_of(options)
    try:
        # What is before a colon of a relative path would be a protocol. Nothing in the file may lead out of it.
        chosen = {"protocol_whitelist": "file", **CONTAINER_OPTIONS}
        container = av.open(f"file:{path.absolute()}", options=chosen, hwaccel=accelerator)
    except (OSError, av.FFmpegError) as error:
        raise SourceError(
            f"{path} is no video that FFmpeg can read ({reason_of(error)}); an mp4 that was cut off while it was "
            "written is lost, others can be converted with: ffmpeg -i IN OUT.mp4"
        ) from None
    try:
        return FfmpegSource(str(path), container, options, live=False, paths=(path,))
    except BaseException:
        container.close()
        raise


def _open_with_gstreamer(path: Path, options: SourceOptions) -> Source:
    pipeline = file_pipeline(path, nvidia=has_element(NVIDIA_CONVERTER))
    advice = "--hwaccel none reads it with FFmpeg"
    return GStreamerSource(str(path), pipeline, options, live=False, advice=advice, paths=(path,))
