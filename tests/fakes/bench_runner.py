"""`FakeRunner`: a model under measurement whose turns take as long as a test says."""

from __future__ import annotations

from ssd_edge.bench.turns import Turn, TurnTimes
from ssd_edge.errors import SsdEdgeError
from tests.fakes.clock import Clock


class FakeRunner:
    """Takes `seconds` a turn, notes it, and fails in turn `fails_in`."""

    def __init__(self, name: str, log: list[str], clock: Clock, seconds: float, fails_in: int | None = None) -> None:
        self.name, self.log, self.clock, self.seconds, self.fails_in = name, log, clock, seconds, fails_in
        self.turns: list[Turn] = []

    def run(self, turn: Turn) -> TurnTimes:
        self.turns.append(turn)
        self.log.append(self.name)
        self.clock.pass_by(self.seconds)
        if len(self.turns) == self.fails_in:
            raise SsdEdgeError("out of memory")
        return TurnTimes((1e3 * self.seconds,), (1.0,), 2)
