"""How far a build is: TensorRT's phases as one fraction, and its cancellation."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ssd_edge.runtime.tensorrt.versions import IProgressMonitor, TensorRT

Progress = Callable[[float, str], None]  # fraction done, name of the phase


@dataclass
class Phases:
    """Phases that run inside each other, as one fraction that only rises."""

    running: dict[str, tuple[str | None, int, int]] = field(default_factory=dict)  # name: parent, steps, steps done
    fraction: float = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        self.running[name] = (parent, max(1, steps), 0)

    def step(self, name: str, step: int) -> None:
        if name in self.running:
            parent, steps, _ = self.running[name]
            self.running[name] = (parent, steps, min(step + 1, steps))
            self.fraction = max(self.fraction, min(1.0, self._done(name)))

    def finish(self, name: str) -> None:
        self.running.pop(name, None)

    def _done(self, name: str) -> float:
        """Of the whole, when `name` alone advances."""
        share = 0.0
        current: str | None = name
        while current in self.running:
            current, steps, done = self.running[current]
            share = (done + share) / steps
        return share


def progress_monitor(trt: TensorRT, progress: Progress | None, cancelled: threading.Event) -> IProgressMonitor:
    """What TensorRT reports its phases to; it stops building once `cancelled` is set.

    Args:
        progress: called from TensorRT's threads, one call at a time.
    """
    base = trt.api.IProgressMonitor
    phases, lock = Phases(), threading.Lock()  # TensorRT calls from several threads

    def phase_start(_: Any, name: str, parent: str | None, steps: int) -> None:
        with lock:
            phases.start(name, parent, steps)

    def phase_finish(_: Any, name: str) -> None:
        with lock:
            phases.finish(name)

    def step_complete(_: Any, name: str, step: int) -> bool:
        with lock:
            phases.step(name, step)
            if progress is not None:
                progress(phases.fraction, name)
        return not cancelled.is_set()

    members = {
        "__init__": lambda monitor: base.__init__(monitor),
        "phase_start": phase_start,
        "phase_finish": phase_finish,
        "step_complete": step_complete,
    }
    return type("ProgressMonitor", (base,), members)()
