"""Figures of turns that can be worked out by hand."""

import pytest

from ssd_edge.bench.figures import Percentiles, Spread, speed_of, times_as_fast
from ssd_edge.bench.turns import TurnTimes


def turn(*total_ms: float, power_w: dict[str, float] | None = None) -> TurnTimes:
    return TurnTimes(total_ms, tuple(ms / 2 for ms in total_ms), len(total_ms), power_w or {})


def test_percentiles_are_linear_between_values() -> None:
    percentiles = Percentiles.of(list(range(101)))
    assert (percentiles.p50, percentiles.p95, percentiles.p99) == (50, 95, 99)
    percentiles = Percentiles.of([30.0, 10.0])
    assert (percentiles.p50, percentiles.p95, percentiles.p99) == pytest.approx((20, 29, 29.8))
    assert Percentiles.of([7.0]) == Percentiles(7, 7, 7)


def test_frames_a_second_are_frames_by_time() -> None:
    turns = [turn(10, 10), turn(20, 40)]  # 4 calls in 80 ms
    speed = speed_of(turns, batch=2, first=turns)
    assert speed.fps == pytest.approx(100)  # 8 frames
    assert speed.network_fps == pytest.approx(200)
    assert speed.calls == 4
    assert speed.detections_a_frame == 0.5
    assert (speed.latency_ms.p50, speed.network_ms.p50) == (15, 7.5)
    rounds = speed.fps_rounds
    assert (rounds.median, rounds.q1, rounds.q3) == pytest.approx((400 / 3, 100, 500 / 3))
    assert (speed.power_w, speed.energy_mj) == ({}, None)


def test_times_as_fast_compares_the_medians_of_each_round() -> None:
    first = [turn(40, 40, 900), turn(80), turn(60)]  # the machine slowed down in the second round
    other = [turn(20, 20, 20), turn(20), turn(20)]
    spread = times_as_fast(other, first)
    assert spread == Spread(median=3, q1=2.5, q3=3.5)  # 2, 4, 3
    assert times_as_fast(first, first) == Spread(1, 1, 1)
    assert times_as_fast(other[:1], first) == Spread(2, 2, 2)  # it failed after the first round
    assert times_as_fast(other, []) is None  # the first model was not measured


def test_energy_is_of_all_readers_and_turns_count_by_their_time() -> None:
    turns = [
        turn(10, power_w={"GPU": 20.0, "CPU": 6.0, "flaky": 1.0}),
        turn(30, power_w={"GPU": 40.0, "CPU": 6.0}),  # a reader that missed a turn is left out
    ]
    speed = speed_of(turns, batch=1, first=[])
    assert speed.power_w == pytest.approx({"GPU": 35.0, "CPU": 6.0})
    assert speed.energy_mj == pytest.approx(41 * 20)  # 20 ms a frame
    assert speed.times_as_fast is None
