"""`FakeSource`: what a meter reads of a source."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class FakeSource:
    """A source's state, which a test sets."""

    name: str
    frame_count: int | None = None
    status: str = "ok"
    dropped: int = 0
    corrupt: int = 0
    reconnects: int = 0
    decoder: str = ""
