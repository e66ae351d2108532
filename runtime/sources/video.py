"""Video files as a source."""

from __future__ import annotations

from pathlib import Path

import av

from ssd_edge.errors import SourceError
from ssd_edge.runtime.sources.base import Source, SourceOptions
from ssd_edge.runtime.sources.ffmpeg import CONTAINER_OPTIONS, FfmpegSource, reason_of
from ssd_edge.runtime.sources.hardware import accelerator_of


def open_video(path: Path, options: SourceOptions) -> Source:
    """Open a video file.

    Raises:
        SourceError: FFmpeg cannot read it.
    """
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
