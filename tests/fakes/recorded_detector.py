"""`RecordedDetector`: writes down what is asked of it."""

from __future__ import annotations

from ssd_edge.detections import Detections


class RecordedDetector:
    """Stands for a detector with two slots; writes down the order of what is asked of it."""

    slots, batch = 2, 1

    def __init__(self) -> None:
        self.order: list[str] = []
        self.count = 0

    def submit(self, frames: list[str]) -> None:
        self.order.append("+" + "".join(frames))

    def wait(self, timeout_s: float = 0.0) -> bool:
        return True

    def collect(self) -> list[Detections]:
        self.count += 1
        self.order.append(f"-{self.count}")
        return []
