"""Models take turns of a few frames, in an order drawn anew each round, so that drift of the machine hits all alike."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tqdm import tqdm

from ssd_edge.bench.options import BenchOptions
from ssd_edge.bench.power import PowerMeter
from ssd_edge.errors import SsdEdgeError

TURN_SECONDS = 0.5
TURN_CALLS = 10
LEAST_CALLS = 3  # of a turn, however slow the model is
LEAST_ROUNDS = 5  # below which quartiles over rounds say nothing
# Threads of ONNX Runtime spin on after its last run: 0.05 s of processor time, up to 0.1 s on a busy machine
# (measured with 1.32). Nobody's turn begins before that is over.
REST_SECONDS = 0.1
PROGRESS_BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"


@dataclass(frozen=True)
class Turn:
    """How much to do in one turn: at least `calls`, then on until `seconds` have passed."""

    calls: int
    seconds: float = 0.0


@dataclass(frozen=True)
class TurnTimes:
    """What one turn measured; one value a counted call.

    Attributes:
        total_ms: from frames in memory to detections.
        infer_ms: of it the network alone.
        detections: of all counted calls together.
        power_w: mean power by reader, of the whole turn; empty where the machine tells none.
    """

    total_ms: tuple[float, ...]
    infer_ms: tuple[float, ...]
    detections: int
    power_w: dict[str, float] = field(default_factory=dict)


class Runner(Protocol):
    """A model that can be timed."""

    def run(self, turn: Turn) -> TurnTimes:
        """Take a turn.

        Raises:
            SsdEdgeError: the model failed; it takes no further turn.
        """


@dataclass
class Series:
    """The turns of one model, by round; `error` says why they ended early."""

    turns: list[TurnTimes] = field(default_factory=list)
    error: str | None = None


class Plan:
    """How many rounds there are, and how long a turn is: by the number of calls, or by time."""

    def __init__(self, options: BenchOptions, models: int) -> None:
        self.runs = options.runs
        self.seconds = options.seconds * models
        # Short measurements have shorter turns, not fewer rounds.
        self.turn_seconds = min(TURN_SECONDS, options.seconds / (2 * LEAST_ROUNDS))
        self.turn_calls = TURN_CALLS if self.runs is None else max(1, min(TURN_CALLS, self.runs // LEAST_ROUNDS))

    def share_done(self, rounds: int, elapsed_s: float) -> float:
        """0 at first, 1 when there is nothing left to do."""
        if self.runs is not None:
            return min(1.0, rounds * self.turn_calls / self.runs)
        return min(1.0, elapsed_s / self.seconds, rounds / LEAST_ROUNDS)

    def turn(self, rounds: int) -> Turn:
        """The turn of each model after that many rounds."""
        if self.runs is not None:
            return Turn(min(self.turn_calls, self.runs - rounds * self.turn_calls))
        return Turn(LEAST_CALLS, self.turn_seconds)

    @property
    def turn_text(self) -> str:
        """For the report: how long a turn is."""
        if self.runs is not None:
            return f"{self.turn_calls} call{'s' if self.turn_calls > 1 else ''}"
        return f"{self.turn_seconds:g} s"


def take_turns(
    runners: Sequence[Runner],
    options: BenchOptions,
    *,
    meter: PowerMeter,
    progress: bool = False,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Series]:
    """Let every model take a turn a round, until the time or the runs are through.

    A model that fails takes no further turn; the others go on.

    Returns:
        One `Series` a runner. A model that lived to the end has a turn of every round.
    """
    plan = Plan(options, len(runners))
    series = [Series() for _ in runners]
    order = random.Random(options.seed)
    begin, rounds, share = clock(), 0, 0.0
    with tqdm(
        total=1.0, desc="timing", leave=False, disable=None if progress else True, bar_format=PROGRESS_BAR
    ) as bar:
        while share < 1 and not all(one.error for one in series):
            for index in order.sample(range(len(runners)), len(runners)):
                if series[index].error is None:
                    _take_turn(runners[index], plan.turn(rounds), series[index], meter)
                    sleep(REST_SECONDS)
            rounds += 1
            done = plan.share_done(rounds, clock() - begin)
            bar.update(done - share)
            share = done
    return series


def _take_turn(runner: Runner, turn: Turn, series: Series, meter: PowerMeter) -> None:
    try:
        with meter.measuring() as power_w:
            times = runner.run(turn)
    except SsdEdgeError as error:
        series.error = str(error)
        return
    series.turns.append(TurnTimes(times.total_ms, times.infer_ms, times.detections, power_w))


def time_turn(
    call: Callable[[], tuple[float, int]], turn: Turn, *, clock: Callable[[], float] = time.perf_counter
) -> TurnTimes:
    """Take one turn with `call`, which gives the network's milliseconds and the number of detections.

    The first call is not counted: the others' turns have emptied the caches, which no stream of one model would see.
    """
    call()
    total_ms: list[float] = []
    infer_ms: list[float] = []
    detections = 0
    end = clock() + turn.seconds
    while len(total_ms) < turn.calls or clock() < end:
        begin = clock()
        network_ms, found = call()
        total_ms.append(1e3 * (clock() - begin))
        infer_ms.append(network_ms)
        detections += found
    return TurnTimes(tuple(total_ms), tuple(infer_ms), detections)
