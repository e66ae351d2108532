"""Options that have no effect: they are named, as whoever gives one expects something of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ssd_edge.runtime.sources.base import Place
from ssd_edge.runtime.stream.config import SourceConfig

logger = logging.getLogger(__name__)

INSTEAD = {
    "fps": "--fps asks a camera for a rate, or is the pace of --realtime; to detect less often: --max-fps N",
    "size_wh": "--size asks a camera for its size; files and network streams come as they are",
    "pixel_format": "--pixel-format asks a camera for a format; files and network streams come as they are",
}


def warn_of_useless_options(sources: Sequence[SourceConfig], places: Sequence[Place]) -> None:
    """Name the options of cameras that only sources have which are none."""
    for option, instead in INSTEAD.items():
        pairs = zip(sources, places, strict=True)
        having = [(source, place) for source, place in pairs if getattr(source.options, option) is not None]
        if having and not any(
            place.camera or (option == "fps" and source.options.realtime) for source, place in having
        ):
            names = ", ".join(place.name for _, place in having)
            logger.warning("no effect on %s: %s", names, instead)
