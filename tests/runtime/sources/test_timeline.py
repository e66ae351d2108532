"""One clock per source, whatever the source's own does; and frames at most so often."""

import random
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from ssd_edge.runtime.sources.base import Frame, Place, Source
from ssd_edge.runtime.sources.timeline import STEP_S, Pace, Timeline
from ssd_edge.runtime.sources.worker import SourceWorker
from tests.fakes.scripted_sources import all_frames, wait_for

PIXELS = np.zeros((2, 2, 3), np.uint8)
THIRTY, FILM = [n / 30 for n in range(300)], [n / 25 for n in range(250)]
VARIABLE = [n / 10 for n in range(10)] + [1.0 + n for n in range(9)] + [10 + n / 100 for n in range(100)]


def frame_at(media_time_s: float | None, captured_at: float = 0.0, index: int = 0) -> Frame:
    return Frame(PIXELS, index, captured_at, "a", media_time_s)


def file_times(timeline: Timeline, media_times_s: Sequence[float | None], fps: float | None = None) -> list[float]:
    timeline.begin()
    return [timeline.at_s(frame_at(time_s), live=False, fps=fps) for time_s in media_times_s]


def live_times(media_times_s: Sequence[float | None], arrivals: Sequence[float]) -> list[float]:
    timeline = Timeline()
    timeline.begin()
    pairs = zip(media_times_s, arrivals, strict=True)
    return [timeline.at_s(frame_at(media_s, arrived_at), live=True, fps=None) for media_s, arrived_at in pairs]


@pytest.mark.parametrize("media_times_s", [THIRTY, VARIABLE, [0.4, 0.5, 0.6], [0.0, 5.0, 5.04, 5.08]])
def test_a_file_keeps_its_own_times(media_times_s: list[float]) -> None:
    assert file_times(Timeline(), media_times_s) == media_times_s


def test_a_loop_goes_on_with_the_last_interval() -> None:
    timeline = Timeline()
    times = [time_s for _ in range(3) for time_s in file_times(timeline, FILM[:50])]
    assert times == pytest.approx([n / 25 for n in range(150)])


@pytest.mark.parametrize("frames_per_piece", [20, 50, 200])
def test_pieces_of_a_file_follow_each_other(frames_per_piece: int) -> None:
    pieces = FILM[:frames_per_piece] * 3
    assert file_times(Timeline(), pieces) == pytest.approx([n / 25 for n in range(len(pieces))])


def test_frames_out_of_order_are_a_step_later_and_cost_no_time() -> None:
    times = file_times(Timeline(), [0.0, 0.08, 0.04, 0.12, 0.16])
    assert times == pytest.approx([0.0, 0.08, 0.08 + STEP_S, 0.12, 0.16])


def test_a_file_without_times_goes_by_its_rate() -> None:
    assert file_times(Timeline(), [None] * 4, fps=20) == pytest.approx([0.0, 0.05, 0.1, 0.15])


def test_arrival_that_jitters_does_not_show() -> None:
    delays = random.Random(0)
    arrivals = [1000 + time_s + (0.0 if n == 0 else delays.uniform(0, 0.3)) for n, time_s in enumerate(THIRTY)]
    times = live_times(THIRTY, sorted(arrivals))
    assert np.diff(times) == pytest.approx([1 / 30] * 299, abs=0.025)  # of 0.3 s


@pytest.mark.parametrize("speed", [0.9995, 1.0005])
def test_a_clock_that_drifts_is_followed(speed: float) -> None:
    seconds = [n / 10 for n in range(36000)]
    times = live_times([time_s * speed for time_s in seconds], seconds)
    assert np.abs(np.subtract(times, seconds)).max() < 0.05


@pytest.mark.parametrize("jump_s", [3600.0, 1.0, 0.3, -0.3, -1.0, -3600.0])
def test_a_live_clock_that_is_set_goes_on(jump_s: float) -> None:
    media = [time_s + (jump_s if n >= 100 else 0) + 5000 for n, time_s in enumerate(THIRTY)]
    times = live_times(media, THIRTY)
    assert np.abs(np.subtract(times, THIRTY)).max() < 0.02


@pytest.mark.parametrize("media_time_s", [None, 7.0])
def test_a_live_source_whose_clock_stands_still_goes_by_arrival(media_time_s: float | None) -> None:
    assert live_times([media_time_s] * 300, THIRTY) == THIRTY


def test_frames_that_were_held_up_have_their_own_times() -> None:
    arrivals = [max(time_s, 4.5) if 3 < time_s < 4.5 else time_s for time_s in THIRTY]  # nothing for 1.5 s, then all
    assert np.diff(live_times(THIRTY, arrivals)) == pytest.approx([1 / 30] * 299, abs=0.02)


def test_no_time_is_ever_earlier_than_the_one_before() -> None:
    wild = random.Random(1)
    timeline, last_s = Timeline(), -1.0
    for n in range(3000):
        if n % 100 == 0:
            timeline.begin()
        media_s = wild.choice([None, n / 30, wild.uniform(-1e6, 1e6), 0.0])
        time_s = timeline.at_s(frame_at(media_s, n / 30), live=wild.random() < 0.5, fps=wild.choice([None, 30.0]))
        assert time_s > last_s
        last_s = time_s


@pytest.mark.parametrize(
    ("times_s", "fps", "count"),
    [
        (THIRTY, 2, 20),
        (THIRTY, 15, 150),
        (THIRTY, 29, 290),
        (THIRTY, 30, 300),
        (THIRTY, 60, 300),
        (THIRTY, 0.5, 5),
        (THIRTY, None, 300),
        (FILM, 10, 100),
        (FILM, 24, 240),
        ([round(time_s, 3) for time_s in THIRTY], 30, 300),  # as Matroska has them
        ([round(time_s, 3) for time_s in THIRTY], 10, 100),
        (VARIABLE, 5, 5 + 9 + 5),
        (VARIABLE, 1000, len(VARIABLE)),
    ],
)
def test_the_pace(times_s: list[float], fps: float | None, count: int) -> None:
    pace = Pace(fps)
    chosen = [time_s for time_s in times_s if pace.wants(time_s)]
    assert len(chosen) == count
    if fps and times_s is THIRTY and 30 % fps == 0:
        assert np.diff(chosen) == pytest.approx(1 / fps, abs=1e-9)  # evenly


class Clocked(Source):
    """Frames at these times on its own clock, all at once."""

    name = "clocked"

    def __init__(self, times_s: Sequence[float], *, live: bool) -> None:
        self.live = live
        self._times_s = times_s

    def frames(self) -> Iterator[Frame]:
        for index, time_s in enumerate(self._times_s):
            yield frame_at(time_s, captured_at=time_s, index=index)

    def close(self) -> None:
        pass


def test_frames_that_are_passed_over_are_not_dropped() -> None:
    changed, statuses = threading.Condition(), []
    place = Place("clocked", False, lambda: Clocked(THIRTY, live=False))
    worker = SourceWorker(place, changed, max_fps=5, on_status=lambda status, _: statuses.append(status))
    frames = all_frames(worker, changed)
    assert [frame.index for frame in frames] == list(range(0, 300, 6))
    assert [frame.time_s for frame in frames] == pytest.approx([n / 5 for n in range(50)])
    assert (worker.dropped, worker.next_index, statuses) == (0, 300, ["ok", "ended"])
    assert worker.close(5)


def test_a_live_source_drops_only_what_its_pace_asked_for() -> None:
    changed = threading.Condition()
    place = Place("clocked", False, lambda: Clocked(THIRTY, live=True))
    worker = SourceWorker(place, changed, max_fps=5)
    worker.start()
    wait_for(lambda: worker.next_index == 300)
    with changed:
        assert worker.take().index == 294  # the newest of 50; nobody took the others
    assert worker.dropped == 49
    assert worker.close(5)
