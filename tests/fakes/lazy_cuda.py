"""`LazyCuda`: a `HostCuda` that does nothing until it must: the other extreme of what a GPU may do.

`HostCuda` runs work at once. Here a stream runs when it, or an event on it, is waited for, and no further than that.
What gives the same results on both does not depend on luck: memory that is used again too early, or an event that is
missing, shows here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from ssd_edge.runtime.cuda.base import Event
from ssd_edge.runtime.cuda.errors import CudaError
from tests.fakes.host_cuda import HostCuda, HostEvent, HostStream


class LazyCuda(HostCuda):
    """See above."""

    def stream(self) -> LazyStream:
        return LazyStream(self)

    def event(self, *, timing: bool = False) -> Event:
        return LazyEvent(timing)


class LazyEvent(HostEvent):
    """Done when no stream has a record of it left to run."""

    def __init__(self, timing: bool) -> None:
        super().__init__(timing)
        self.records: deque[LazyStream] = deque()  # where it is recorded

    def synchronize(self) -> None:
        while self.records:
            self.records[0].step()


class LazyStream(HostStream):
    """Puts work off."""

    def __init__(self, cuda: HostCuda) -> None:
        super().__init__(cuda)
        self.work: deque[Callable[[], Any]] = deque()

    def step(self) -> None:
        self.work.popleft()()

    def record(self, event: Event) -> None:
        assert isinstance(event, LazyEvent)
        event.records.append(self)
        self.put(event.records.popleft)

    def wait(self, event: Event) -> None:
        self.put(event.synchronize)

    def synchronize(self) -> None:
        super().synchronize()
        while self.work:
            self.step()

    def close(self) -> None:
        if self.work:
            raise CudaError("the stream was closed before its work was done")
        super().close()

    def put(self, call: Callable[[], Any]) -> None:
        if self.captured is None and not self.closed:
            self.work.append(call)
        else:
            super().put(call)
