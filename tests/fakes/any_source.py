"""A source for tests of what takes its frames."""

from collections.abc import Iterator
from pathlib import Path

from ssd_edge.runtime.sources.base import Frame, Source


class AnySource(Source):
    """A source of which only what sinks ask for matters."""

    name = "any"

    def __init__(self, *, live: bool = False, fps: float | None = 10.0, paths: tuple[Path, ...] = ()) -> None:
        self.live = live
        self.fps = fps
        self.paths = paths

    def frames(self) -> Iterator[Frame]:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError
