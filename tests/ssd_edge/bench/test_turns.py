"""Who takes a turn when, how long, and what comes of one that fails."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from ssd_edge.bench.options import BenchOptions
from ssd_edge.bench.power import PowerMeter
from ssd_edge.bench.turns import LEAST_ROUNDS, REST_SECONDS, Series, Turn, TurnTimes, take_turns, time_turn
from ssd_edge.errors import UsageError
from tests.fakes.bench_runner import FakeRunner
from tests.fakes.clock import Clock


def turns_of(
    options: BenchOptions, *, fails_in: int | None = None
) -> tuple[list[str], list[FakeRunner], list[Series], Clock]:
    log: list[str] = []
    clock = Clock()
    runners = [FakeRunner(name, log, clock, 0.4, fails_in if name == "b" else None) for name in "abc"]
    series = take_turns(runners, options, meter=PowerMeter(), clock=clock, sleep=clock.pass_by)
    return log, runners, series, clock


def test_every_model_has_one_turn_a_round_in_changing_order() -> None:
    log, _, series, _ = turns_of(BenchOptions(runs=60))
    rounds = [tuple(log[start : start + 3]) for start in range(0, len(log), 3)]
    assert len(rounds) == 6
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
    assert len(set(rounds)) > 1
    assert [len(one.turns) for one in series] == [6, 6, 6]
    assert turns_of(BenchOptions(runs=60))[0] == log  # the same seed, the same order
    assert turns_of(BenchOptions(runs=60, seed=1))[0] != log


def test_the_runs_are_counted_exactly() -> None:
    _, runners, _, _ = turns_of(BenchOptions(runs=64))
    assert [turn.calls for turn in runners[0].turns] == [10, 10, 10, 10, 10, 10, 4]
    _, runners, _, _ = turns_of(BenchOptions(runs=12))  # fewer runs have shorter turns, not fewer rounds
    assert [turn.calls for turn in runners[0].turns] == [2] * 6


def test_the_time_ends_the_rounds_and_everyone_rests_between_turns() -> None:
    _, runners, _, clock = turns_of(BenchOptions(seconds=10))
    assert clock.now == pytest.approx(30, abs=1.5)  # 20 rounds of three turns of 0.4 s, and 0.1 s of rest each
    assert [len(runner.turns) for runner in runners] == [20, 20, 20]
    assert runners[0].turns[0] == Turn(3, 0.5)
    assert REST_SECONDS == 0.1
    _, runners, _, _ = turns_of(BenchOptions(seconds=0.1))
    assert len(runners[0].turns) == LEAST_ROUNDS
    assert runners[0].turns[0].seconds == pytest.approx(0.01)


def test_one_that_fails_takes_no_further_turn_and_the_others_go_on() -> None:
    log, runners, series, _ = turns_of(BenchOptions(runs=60), fails_in=2)
    assert [len(runner.turns) for runner in runners] == [6, 2, 6]
    assert [len(one.turns) for one in series] == [6, 1, 6]
    assert [one.error for one in series] == [None, "out of memory", None]
    assert log.count("b") == 2


def test_it_ends_when_all_have_failed() -> None:
    clock = Clock()
    runner = FakeRunner("a", [], clock, 0.4, fails_in=1)
    (series,) = take_turns([runner], BenchOptions(), meter=PowerMeter(), clock=clock, sleep=clock.pass_by)
    assert (len(runner.turns), series.turns, series.error) == (1, [], "out of memory")


def calls_of(clock: Clock, *seconds: float) -> Callable[[], tuple[float, int]]:
    """Each call takes the next of `seconds`, 1 ms of it in the network, and finds 3."""
    durations = itertools.chain(seconds, itertools.repeat(seconds[-1]))

    def call() -> tuple[float, int]:
        clock.pass_by(next(durations))
        return 1.0, 3

    return call


def test_the_first_call_of_a_turn_is_not_counted() -> None:
    clock = Clock()
    times = time_turn(calls_of(clock, 9.0, 0.25, 0.5), Turn(2), clock=clock)
    assert times == TurnTimes((250.0, 500.0), (1.0, 1.0), 6)


def test_a_turn_goes_on_until_its_time_is_up_but_has_its_least_calls() -> None:
    clock = Clock()
    assert len(time_turn(calls_of(clock, 0.25), Turn(1, 1.0), clock=clock).total_ms) == 4
    assert len(time_turn(calls_of(clock, 2.0), Turn(3, 1.0), clock=clock).total_ms) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"seconds": 0},
        {"seconds": float("nan")},
        {"runs": 0},
        {"batch": 0},
        {"warmup": -1},
        {"threads": 0},
        {"score_threshold": 1.0},
        {"backend": "openvino"},
    ],
)
def test_wrong_options(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="expected"):
        BenchOptions(**wrong)
