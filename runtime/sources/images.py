"""Images, folders and glob patterns of images as a source."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from ssd_edge.errors import DatasetError, SourceError
from ssd_edge.images import IMAGE_SUFFIXES, load_image
from ssd_edge.runtime.sources.base import Frame, Source

logger = logging.getLogger(__name__)


class ImageSource(Source):
    """Image files. One that cannot be read is named in a warning and left out."""

    def __init__(self, name: str, paths: tuple[Path, ...]) -> None:
        self.name = name
        self.paths = paths
        self.frame_count = len(paths)

    def frames(self) -> Iterator[Frame]:
        names = names_below_common_folder(self.paths)
        for index, (path, name) in enumerate(zip(self.paths, names, strict=True)):
            try:
                image = load_image(path)
            except DatasetError as error:
                logger.warning("left out: %s", error)
                self.corrupt += 1
                continue
            yield Frame(image, index, time.monotonic(), name)
        if self.corrupt == len(self.paths):
            raise SourceError(f"{self.name}: none of {len(self.paths)} images can be read")

    def close(self) -> None:
        pass  # a file is open only while it is read


def names_below_common_folder(paths: tuple[Path, ...]) -> tuple[str, ...]:
    """What each file is called from the deepest folder that holds all of them, never above it.

    A file that is a link is called as the link is, wherever it leads.
    """
    if not paths:
        return ()
    folders = [path.parent.resolve() for path in paths]
    common = os.path.commonpath(folders)
    return tuple(os.path.relpath(folder / path.name, common) for folder, path in zip(folders, paths, strict=True))


def open_images(name: str, paths: list[Path]) -> Source:
    images = tuple(path for path in paths if is_image(path))
    if not images:
        raise SourceError(f"no image in {name}; expected files that end in {', '.join(sorted(IMAGE_SUFFIXES))}")
    return ImageSource(name, images)


def natural_key(path: Path) -> tuple[list[tuple[str, int]], str]:
    """Sorts paths as people number them: frame_2 before frame_10; what differs by leading zeros alone, by name."""
    words = re.findall(r"([^0-9]*)([0-9]*)", str(path))
    return [(word, int(digits or -1)) for word, digits in words], str(path)


def is_image(path: Path) -> bool:
    """By its name."""
    return path.suffix.lower() in IMAGE_SUFFIXES
