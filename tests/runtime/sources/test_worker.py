"""A source's threads: nothing lost from a file, only the newest from a live source, and every fault survived."""

import gc
import itertools
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ssd_edge.errors import SourceError
from ssd_edge.runtime.sources import worker as source_worker
from ssd_edge.runtime.sources.base import Frame
from ssd_edge.runtime.sources.worker import Retry, SourceWorker
from ssd_edge.runtime.stream.batcher import Batcher
from tests.fakes.scripted_sources import ScriptedPlace, ScriptedSource, wait_for

QUICK = Retry(first_s=0.02, most_s=0.08)


class Watch:
    """A worker, the frames taken from it, and the statuses told of it."""

    def __init__(self, place: ScriptedPlace, **options: Any) -> None:
        self.changed = threading.Condition()
        self.statuses: list[tuple[str, str]] = []
        options = {"retry": QUICK, "timeout_s": 1.0, **options}
        self.place = place
        self.worker = SourceWorker(
            place.place, self.changed, on_status=lambda *status: self.statuses.append(status), **options
        )
        self.frames = self._frames()

    def _frames(self) -> Iterator[Frame]:
        batcher = Batcher([self.worker], self.changed, lambda _: True, lambda: False)
        while batch := batcher.take(1):
            yield batch[0][1]

    @property
    def short_statuses(self) -> list[str]:
        return [status for status, _ in self.statuses]


@pytest.fixture
def watch() -> Iterator[Callable[..., Watch]]:
    watches = []

    def start(*scripts: list[Any], live: bool = True, **options: Any) -> Watch:
        watches.append(Watch(ScriptedPlace(*scripts, live=live), **options))
        watches[-1].worker.start()
        return watches[-1]

    yield start
    for one in watches:
        assert one.worker.close(5)


def test_a_file_loses_no_frame_and_is_not_read_ahead(watch: Callable[..., Watch]) -> None:
    seen = watch([50], live=False)
    indexes = []
    for frame in seen.frames:
        assert seen.worker.next_index <= frame.index + 1 + source_worker.CAPACITY[1]
        indexes.append(frame.index)
        if frame.index == 5:
            time.sleep(0.05)  # a slow consumer
    assert indexes == list(range(50))
    assert (seen.worker.dropped, seen.short_statuses) == (0, ["ok", "ended"])


def test_a_live_source_keeps_the_newest(watch: Callable[..., Watch]) -> None:
    go_on, end = threading.Event(), threading.Event()
    seen = watch([1, go_on, 49, end, "fail"], retry=Retry(limit=0))
    assert next(seen.frames).index == 0
    go_on.set()
    wait_for(lambda: seen.worker.next_index == 50)  # all the others came while we were busy with the first
    end.set()
    assert [frame.index for frame in seen.frames] == [49]
    assert seen.worker.dropped == 48


def test_a_file_that_fails_has_failed(watch: Callable[..., Watch]) -> None:
    seen = watch([3, "fail"], live=False, retry=Retry(limit=0))
    assert [frame.index for frame in seen.frames] == [0, 1, 2]
    assert seen.statuses == [("ok", ""), ("failed", "scripted failure")]
    assert str(seen.worker.error) == "scripted failure"


def test_an_unexpected_error_of_a_library_is_one_of_the_source(watch: Callable[..., Watch]) -> None:
    seen = watch([1, ValueError("of rtsp://me:pw@host/x")], live=False, retry=Retry(limit=0))
    assert len(list(seen.frames)) == 1
    assert str(seen.worker.error) == "unexpected ValueError: of rtsp://***@host/x"


def test_a_source_that_dies_comes_back_and_numbers_go_on(
    watch: Callable[..., Watch], caplog: pytest.LogCaptureFixture
) -> None:
    end = threading.Event()
    with caplog.at_level(logging.INFO):
        seen = watch([1, "fail"], ["no"], ["no"], [2, end])
        frames = [next(seen.frames).index for _ in range(2)]
    assert frames == [0, 2] or frames == [0, 1]  # of the last two the newest
    assert seen.short_statuses == ["ok", "reconnecting", "ok"]
    assert seen.worker.reconnects == 3
    assert [record.getMessage() for record in caplog.records] == [
        "scripted: reconnecting: scripted failure",
        "scripted: ok",
    ]
    end.set()


def test_what_failed_is_let_go_at_once_and_not_by_the_garbage_collector(watch: Callable[..., Watch]) -> None:
    end = threading.Event()
    gc.collect()
    gc.disable()  # what it finds may be gigabytes of a driver's buffers by then
    try:
        seen = watch([1, "fail"], [1, end])
        frames = [next(seen.frames).index for _ in range(2)]
        sources = seen.place.sources
        wait_for(lambda: len(sources) == 2)
        first = weakref.ref(sources.pop(0))
        wait_for(lambda: first() is None)
    finally:
        gc.enable()
        end.set()
    assert frames == [0, 1]


def test_time_in_which_the_process_stood_still_is_no_silence(
    watch: Callable[..., Watch], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock:
        ahead_s = 0.0

        def monotonic(self) -> float:
            return time.monotonic() + self.ahead_s

    clock, go_on = Clock(), threading.Event()
    monkeypatch.setattr(source_worker, "time", clock)
    seen = watch([1, go_on, 1], live=False, retry=Retry(limit=0))
    assert next(seen.frames).index == 0
    for _ in range(3):
        clock.ahead_s += 1000.0  # Ctrl-Z, and an hour later fg
        time.sleep(5 * source_worker.POLL_S)
    go_on.set()
    assert [frame.index for frame in seen.frames] == [1]
    assert seen.short_statuses == ["ok", "ended"]


def test_retries_are_counted_in_a_row(watch: Callable[..., Watch]) -> None:
    place = [["no"], ["no"], [1, 0.1, 1, "fail"], ["no"], ["no"], ["no"]]
    seen = watch(*place, retry=Retry(limit=2, first_s=0.02, most_s=0.02))
    assert len(list(seen.frames)) == 2
    assert seen.short_statuses == ["reconnecting", "ok", "reconnecting", "failed"]
    assert str(seen.worker.error) == "nobody is there"


def test_waits_grow_to_a_limit_at_random() -> None:
    retry = Retry(first_s=0.5, most_s=30)
    assert [retry.step_s(failures) for failures in (1, 2, 3, 6, 7, 100_000)] == [0.5, 1, 2, 16, 30, 30]
    waits = [retry.wait_s(3) for _ in range(200)]
    assert 1 <= min(waits) < 1.2 < 1.8 < max(waits) <= 2


def test_a_source_that_dies_at_once_after_every_opening_is_not_hammered() -> None:
    place = ScriptedPlace([1, "fail"])
    seen = Watch(place, retry=Retry(first_s=0.02, most_s=0.2))
    seen.worker.start()
    wait_for(lambda: len(place.asked_at) == 7)
    gaps = [later - earlier for earlier, later in itertools.pairwise(place.asked_at)]
    assert gaps[5] > 0.09
    assert seen.worker.close(5)


def test_a_stall_is_seen_while_the_reader_waits(watch: Callable[..., Watch], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_worker, "STALLED_S", 0.1)
    back, end = threading.Event(), threading.Event()
    seen = watch([1, back, 1, end])
    next(seen.frames)
    wait_for(lambda: seen.statuses[-1] == ("stalled", "no frame for 0 s"))
    back.set()
    assert next(seen.frames).index == 1
    wait_for(lambda: seen.short_statuses == ["ok", "stalled", "ok"])
    end.set()


@pytest.mark.parametrize("where", ["reading", "opening"])
def test_a_reader_that_hangs_is_given_up_and_what_it_brings_goes_nowhere(
    watch: Callable[..., Watch], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_worker, "GRACE_S", 0.1)
    hang, end = threading.Event(), threading.Event()
    place = ScriptedPlace([1, hang, (9, 9), 5] if where == "reading" else [hang, "opened", (9, 9), 5], [0.05, 2, end])
    seen = Watch(place, timeout_s=0.1)
    seen.worker.start()
    wait_for(lambda: seen.worker.hanging == 1)
    wait_for(lambda: len(place.asked_at) == 2)
    frames = [next(seen.frames)]
    hang.set()
    wait_for(lambda: seen.worker.hanging == 0)
    frames += [next(seen.frames)] if where == "reading" else []
    assert [frame.image_bgr.shape for frame in frames] == [(4, 4, 3)] * len(frames)
    wait_for(lambda: [source.closed for source in place.sources].count(True) == 1)  # that of the one that hung
    assert "hangs: no answer within" in dict(seen.statuses)["reconnecting"]
    end.set()
    assert seen.worker.close(5)


def test_no_more_than_a_few_readers_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_worker, "GRACE_S", 0.05)
    hang = threading.Event()
    place = ScriptedPlace([hang])
    worker = Watch(place, timeout_s=0.05).worker
    worker.start()
    wait_for(lambda: worker.hanging == source_worker.MAX_HANGING)
    time.sleep(0.3)
    assert len(place.asked_at) == source_worker.MAX_HANGING
    assert not worker.close(0.5)  # they are still there
    hang.set()
    wait_for(lambda: worker.close(5))


def test_a_size_that_changes_goes_through(watch: Callable[..., Watch]) -> None:
    seen = watch([1, (6, 8), 1], live=False)
    assert [frame.image_bgr.shape for frame in seen.frames] == [(4, 4, 3), (6, 8, 3)]


def test_a_file_in_a_loop(watch: Callable[..., Watch]) -> None:
    seen = watch([3], live=False, loop=True)
    assert [next(seen.frames).index for _ in range(10)] == list(range(10))
    assert seen.short_statuses == ["ok"]
    assert seen.worker.frame_count is None


def test_an_open_source_is_not_opened_again(watch: Callable[..., Watch]) -> None:
    opened = ScriptedSource([2], live=False)
    seen = watch(["no"], live=False, opened=opened, name="door")
    assert [(frame.index, frame.name) for frame in seen.frames] == [(0, "door"), (1, "door")]
    assert opened.closed


def test_never_started_still_closes_the_source() -> None:
    opened = ScriptedSource([2], live=False)
    assert Watch(ScriptedPlace(["no"]), opened=opened).worker.close(1)
    assert opened.closed


def test_stop_ends_a_reader_that_waits_for_a_consumer(watch: Callable[..., Watch]) -> None:
    seen = watch([1000], live=False)
    next(seen.frames)
    begin = time.monotonic()
    assert seen.worker.close(5)
    assert time.monotonic() - begin < 1


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc")
def test_many_reconnects_leave_nothing_behind(watch: Callable[..., Watch]) -> None:
    seen = watch([1, "fail"], ["no"], retry=Retry(first_s=0.001, most_s=0.002))
    wait_for(lambda: seen.worker.reconnects > 5)
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    wait_for(lambda: seen.worker.reconnects > 60, timeout_s=30)
    gc.collect()
    assert threading.active_count() <= threads + 1  # one of them is just being made
    assert len(os.listdir("/proc/self/fd")) <= files


def test_source_error_is_raised_where_asked() -> None:
    with pytest.raises(SourceError, match="nobody is there"):
        ScriptedPlace(["no"]).place.open()
