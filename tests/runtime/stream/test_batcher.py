"""Batches take frames of all sources in turn, and wait for none that hangs."""

import threading
import time

from ssd_edge.runtime.sources.worker import CAPACITY, SourceWorker
from ssd_edge.runtime.stream.batcher import Batcher
from tests.fakes.scripted_sources import ScriptedPlace, ScriptedSource, wait_for


def test_one_that_hangs_does_not_slow_the_others() -> None:
    changed, hang = threading.Condition(), threading.Event()
    dead = SourceWorker(ScriptedPlace([hang]).place, changed, name="dead")
    good = SourceWorker(ScriptedPlace([100], live=False).place, changed, name="good")
    for worker in (dead, good):
        worker.start()
    batcher = Batcher([dead, good], changed, lambda _: True, lambda: False)
    begin = time.monotonic()
    taken: list[int] = []
    while len(taken) < 100:
        taken += [frame.index for _, frame in batcher.take(4)]
    assert taken == list(range(100))
    assert time.monotonic() - begin < 2
    hang.set()
    assert dead.close(5)
    assert good.close(5)


def test_turns_are_fair_also_within_a_batch() -> None:
    changed = threading.Condition()
    workers = [
        SourceWorker(ScriptedPlace([40], live=False).place, changed, name=name, opened=ScriptedSource([40], live=False))
        for name in "abc"
    ]
    for worker in workers:
        worker.start()
    wait_for(lambda: all(worker.ready for worker in workers))
    batcher = Batcher(workers, changed, lambda worker: worker.name != "c", lambda: False)
    turns = []
    for _ in range(20):
        with changed:
            changed.wait_for(lambda: all(worker.ready for worker in workers), 5)
        turns += [worker.name for worker, _ in batcher.take(1)]
    assert turns == ["a", "b"] * 10  # no sink has room for c
    with changed:
        changed.wait_for(lambda: all(worker.ready for worker in workers), 5)
    assert [worker.name for worker, _ in batcher.take(2)] == ["a", "b"]
    wait_for(lambda: all(worker.next_index >= 11 + CAPACITY[0] for worker in workers[:2]))  # so many are there
    batch = batcher.take(6)
    assert [worker.name for worker, _ in batch] == ["a", "b"] * 3
    assert [frame.index for _, frame in batch] == [11, 11, 12, 12, 13, 13]
    for worker in workers:
        worker.close(5)


def test_what_is_taken_without_waiting() -> None:
    changed, stop = threading.Condition(), threading.Event()
    worker = SourceWorker(ScriptedPlace([0.1, 1, stop]).place, changed)
    batcher = Batcher([worker], changed, lambda _: True, stop.is_set)
    worker.start()
    assert batcher.take(1, until=lambda: True) == []
    assert len(batcher.take(1)) == 1
    threading.Timer(0.05, stop.set).start()
    assert batcher.take(1) == []
    assert worker.close(5)
