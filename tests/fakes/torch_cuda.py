"""Streams and graphs of PyTorch where there is no GPU."""

from __future__ import annotations


class FakeStream:
    """A stream of PyTorch's.

    Args:
        waits: takes (waiting, awaited) handles of each wait.
    """

    def __init__(self, handle: int, waits: list[tuple[int, int]]) -> None:
        self.cuda_stream = handle
        self.waits = waits

    def wait_stream(self, stream: FakeStream) -> None:
        self.waits.append((self.cuda_stream, stream.cuda_stream))


class FakeGraph:
    """A captured graph that holds nothing."""

    def replay(self) -> None:
        pass

    def reset(self) -> None:
        pass
