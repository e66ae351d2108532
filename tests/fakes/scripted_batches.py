"""`ScriptedBatches`: batches that come, or do not, as a script says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import Mock


class ScriptedBatches:
    """Stands for a batcher: gives these batches, and nothing where there is a " " unless it is waited for."""

    def __init__(self, batches: str) -> None:
        self.batches = list(batches)

    def wake(self) -> None:
        pass

    def take(self, most: int, *, until: Callable[[], bool]) -> list[Any]:
        while self.batches:
            name = self.batches.pop(0)
            if name != " ":
                return [(None, Mock(pixels=name))]
            if until():
                break
        return []
