"""A sink's thread: a slow sink drops what is counted, a broken one is told once, and neither holds anything up."""

import logging
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from ssd_edge.detections import Detections
from ssd_edge.errors import SinkError
from ssd_edge.runtime.results import Result
from ssd_edge.runtime.sinks import worker as sink_worker
from ssd_edge.runtime.sinks.base import EndOfStream, Sink
from ssd_edge.runtime.sinks.worker import Picture, SinkWorker, close_sinks
from ssd_edge.runtime.sources.base import Frame
from ssd_edge.runtime.stats import StreamStats
from tests.fakes.gate_sink import Gate
from tests.fakes.scripted_sources import wait_for


def result(index: int, source: str = "door") -> Result:
    frame = Frame(np.full((4, 6, 3), 7, np.uint8), index, time.monotonic(), source)
    return Result(source, frame, Detections.empty(), ("a",), 1.0)


def put(worker: SinkWorker, *indexes: int, keep: bool = False) -> None:
    for index in indexes:
        one = result(index)
        worker.put(one, Picture(one, lambda _: np.full((4, 6, 3), 9, np.uint8)), keep=keep)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


def end(*workers: SinkWorker) -> None:
    assert close_sinks(list(workers), lambda: None)


def test_everything_is_written_in_order_before_the_end(gate: Gate) -> None:
    worker = SinkWorker(gate, "sink")
    put(worker, 0, 1)
    worker.put_status("door", "ended", "")
    gate.open.set()
    end(worker)
    assert gate.told == [(0, 9), (1, 9), ("door", "ended", "")]
    assert gate.closed.is_set()
    assert (worker.dropped, worker.error) == (0, None)


def test_a_slow_sink_drops_the_oldest_and_counts_them_exactly(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    worker = SinkWorker(gate, "sink")
    put(worker, 0)
    gate.waiting.wait(5)
    begin = time.monotonic()
    put(worker, *range(1, 101))
    assert time.monotonic() - begin < 0.5  # it never waited
    gate.open.set()
    end(worker)
    assert [index for index, _ in gate.told] == [0, *range(101 - sink_worker.CAPACITY, 101)]
    dropped = 100 - sink_worker.CAPACITY
    assert worker.dropped == dropped
    assert f"sink was too slow for {dropped} results" in caplog.text


def test_what_must_be_kept_is_kept_and_says_when_there_is_room(gate: Gate) -> None:
    rooms = []
    worker = SinkWorker(gate, "sink", on_room=lambda: rooms.append(worker.has_room()))
    put(worker, 0, keep=True)
    gate.waiting.wait(5)
    assert worker.has_room()
    assert not worker.has_room(sink_worker.CAPACITY // 2)
    put(worker, *range(1, 1 + sink_worker.CAPACITY), keep=True)
    assert not worker.has_room()
    put(worker, 1000, *range(100, 110))  # nothing that may be dropped waits: these are
    gate.open.set()
    wait_for(worker.has_room)
    end(worker)
    assert [index for index, _ in gate.told] == list(range(1 + sink_worker.CAPACITY))
    assert worker.dropped == 11
    assert rooms[-1]


def test_a_sink_without_pictures_has_a_longer_queue_and_no_pixels(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def write(result: Result, drawn_bgr: NDArray[np.uint8]) -> None:
        seen.append((result.frame.image_bgr.strides, result.record()["width"]))

    monkeypatch.setattr(gate, "write", write)
    gate.needs_pixels = False
    worker = SinkWorker(gate, "sink")
    put(worker, *range(100))
    end(worker)
    assert seen == [((0, 0, 0), 6)] * 100
    assert worker.dropped == 0


def test_a_frame_is_drawn_once_for_all_and_not_at_all_for_none() -> None:
    drawn = []

    def draw(result: Result) -> NDArray[np.uint8]:
        drawn.append(result.frame.index)
        return result.frame.image_bgr + 1

    gates = Gate(), Gate(), Gate()
    gates[2].needs_drawing = False
    workers = [SinkWorker(one, "sink") for one in gates]
    one = result(3)
    picture = Picture(one, draw)
    for worker, sink in zip(workers, gates, strict=True):
        sink.open.set()
        worker.put(one, picture, keep=False)
    end(*workers)
    assert drawn == [3]
    assert [sink.told for sink in gates] == [[(3, 8)], [(3, 8)], [(3, 0)]]


@pytest.mark.parametrize(
    ("error", "message"),
    [(SinkError("disk full"), "disk full"), (KeyError("user:pw@host"), "sink: unexpected KeyError: '***@host'")],
)
def test_an_error_is_told_once_and_the_sink_is_closed(
    error: Exception, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(index: int) -> None:
        raise error

    gate = Gate(fail)
    gate.open.set()
    worker = SinkWorker(gate, "sink")
    put(worker, 0, 1, 2)
    gate.closed.wait(5)
    put(worker, *range(100), keep=True)
    assert worker.has_room()  # a file does not wait for it
    end(worker)
    assert str(worker.error) == message
    (warning,) = (record for record in caplog.records if record.levelno >= logging.WARNING)
    assert warning.getMessage() == f"sink failed, and the stream goes on without it: {message}"


def test_an_error_at_the_end_counts_too(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    def close() -> None:
        raise SinkError("frames are lost")

    monkeypatch.setattr(gate, "close", close)
    worker = SinkWorker(gate, "sink")
    end(worker)
    assert str(worker.error) == "frames are lost"


def test_a_sink_may_end_the_stream() -> None:
    def stop(index: int) -> None:
        raise EndOfStream

    ended = threading.Event()
    gate = Gate(stop)
    gate.open.set()
    worker = SinkWorker(gate, "sink", on_end=ended.set)
    put(worker, 0)
    assert ended.wait(5)
    end(worker)
    assert worker.error is None
    assert gate.closed.is_set()


def test_a_stuck_sink_does_not_hang_the_end(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    other = Gate()
    other.open.set()
    workers = [SinkWorker(gate, "stuck"), SinkWorker(other, "other")]
    for worker in workers:
        put(worker, 0, 1, 2, keep=True)
    begin = time.monotonic()
    assert not close_sinks(workers, lambda: begin + 0.3 - time.monotonic())
    assert time.monotonic() - begin < 2
    assert len(other.told) == 3
    assert other.closed.is_set()
    assert [record.getMessage() for record in caplog.records] == ["stuck does not end; 2 results are lost"]


def test_a_sink_of_one_source_takes_no_other() -> None:
    worker = SinkWorker(Gate(), "sink", source="door")
    assert (worker.takes("door"), worker.takes("yard")) == (True, False)
    end(worker)


def test_a_sink_that_only_writes_is_told_the_rest_to_no_effect() -> None:
    class WriteOnly(Sink):
        def write(self, result: Result, drawn_bgr: NDArray[np.uint8]) -> None:
            written.append(result.frame.index)

    written: list[int] = []
    worker = SinkWorker(WriteOnly(), "sink")
    assert not worker.wants_stats
    worker.put_status("door", "ok", "")
    worker.put_stats("door", StreamStats(1, 0, 1.0, (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)))
    put(worker, 0, 1)
    end(worker)
    assert (written, worker.error) == ([0, 1], None)


def test_a_status_takes_no_place_in_the_queue_of_a_sink_that_does_not_listen() -> None:
    class WriteOnly(Sink):
        def write(self, result: Result, drawn_bgr: NDArray[np.uint8]) -> None:
            began.set()
            go_on.wait(10)
            written.append(result.frame.index)

    written: list[int] = []
    began, go_on = threading.Event(), threading.Event()
    worker = SinkWorker(WriteOnly(), "sink")
    put(worker, 0)
    assert began.wait(10)
    put(worker, *range(1, 9))  # the queue is full
    worker.put_status("door", "reconnecting", "")
    go_on.set()
    end(worker)
    assert (written, worker.dropped) == (list(range(9)), 0)


def test_an_idle_sink_is_given_its_turn() -> None:
    class Idle(Gate):
        idle_s = 0.05

        def idle(self) -> None:
            raise EndOfStream

    ended = threading.Event()
    worker = SinkWorker(Idle(), "window", on_end=ended.set)
    assert ended.wait(5)
    end(worker)
