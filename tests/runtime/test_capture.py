"""The capture thread: nothing lost from a file, only the newest from a live source, errors come through."""

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from ssd_edge.errors import SourceError
from ssd_edge.runtime.capture import Capture
from ssd_edge.runtime.sources import Frame, Source


class CountingSource(Source):
    """Gives `count` frames at once (if live, the second when `go_on` is set), then an error if one is given."""

    name = "counting"

    def __init__(self, count: int, *, live: bool = False, error: Exception | None = None) -> None:
        self.count = count
        self.live = live
        self.error = error
        self.read = 0
        self.go_on = threading.Event()
        self.exhausted = threading.Event()
        self.closed = False

    def frames(self) -> Iterator[Frame]:
        for index in range(self.count):
            self.read = index + 1
            yield Frame(np.zeros((1, 1, 3), np.uint8), index, time.monotonic(), self.name)
            if self.live:
                self.go_on.wait(5)
        self.exhausted.set()
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        self.closed = True


def test_a_file_loses_no_frame_and_is_not_read_ahead() -> None:
    source = CountingSource(50)
    seen = []
    with Capture(source, capacity=3) as capture:
        for frame in capture:
            assert source.read <= frame.index + 1 + 3 + 1  # taken, queued, and one in the thread's hand
            seen.append(frame.index)
            if frame.index == 5:
                time.sleep(0.05)  # a slow consumer
    assert seen == list(range(50))
    assert capture.dropped == 0
    assert source.closed


def test_a_live_source_keeps_the_newest() -> None:
    source = CountingSource(50, live=True)
    with Capture(source) as capture:
        frames = iter(capture)
        first = next(frames)
        source.go_on.set()
        assert source.exhausted.wait(5)  # all the others came while we were busy with the first
        rest = [frame.index for frame in frames]
    assert (first.index, rest) == (0, [49])
    assert capture.dropped == 48


def test_frames_before_an_error_are_given_first() -> None:
    with Capture(CountingSource(3, error=SourceError("unplugged"))) as capture:
        frames = iter(capture)
        assert [next(frames).index for _ in range(3)] == [0, 1, 2]
        with pytest.raises(SourceError, match="unplugged"):
            next(frames)


def test_stop_ends_a_waiting_consumer_and_a_waiting_thread() -> None:
    source = CountingSource(1000)
    with Capture(source, capacity=2) as capture:
        for frame in capture:
            if frame.index == 4:
                capture.request_stop()
        assert frame.index == 4
    assert source.closed
    assert source.read < 20


def test_never_iterated_still_closes_the_source() -> None:
    source = CountingSource(3)
    with Capture(source):
        pass
    assert source.closed
    assert source.read == 0


def test_a_read_that_hangs_does_not_hang_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssd_edge.runtime.capture.JOIN_S", 0.1)
    release = threading.Event()

    class Hanging(CountingSource):
        def frames(self) -> Iterator[Frame]:
            yield from super().frames()
            release.wait(10)

    source = Hanging(1)
    with Capture(source) as capture:
        next(iter(capture))
    assert not source.closed  # closing a device while a read is under way would crash
    release.set()
