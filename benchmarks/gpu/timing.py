"""Timing on a GPU: medians of contenders that take turns, so that drift of the clocks hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack

import numpy as np

from ssd_edge.runtime.cuda.base import Cuda, Graph, Stream

Contender = Callable[[], float]  # runs once; milliseconds
WARM_UP = 20  # runs that are not counted
FILLS, FILL_BYTES = 32, 64 << 20  # about 1 ms where memory takes 2 TB/s, and longer elsewhere


def medians_ms(
    contenders: Mapping[str, Contender], runs: int, left_out: Callable[[str, Exception], None] | None = None
) -> dict[str, float]:
    """Median of each over `runs` rounds, in every one of which each runs once.

    Args:
        left_out: called with the name and the error of a contender that fails, which then takes no part; it may raise.
            None: the error is raised.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(-min(WARM_UP, runs), runs):
        for name in list(times):
            try:
                ms = contenders[name]()
            except Exception as error:
                if left_out is None:
                    raise
                left_out(name, error)
                del times[name]
                continue
            if turn >= 0:
                times[name].append(ms)
    return {name: float(np.median(values)) for name, values in times.items()}


def on_the_clock(call: Callable[[], object]) -> Contender:
    """Wall clock of a call that returns when its results are there."""

    def run() -> float:
        begin = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - begin)

    return run


def on_the_gpu(stack: ExitStack, cuda: Cuda, stream: Stream, work: Callable[[], None]) -> Contender:
    """Time between two events on the stream, one before and one behind what `work` puts there.

    The GPU is kept busy until all of it is queued: else the time would be that of launching it. As the filling empties
    the GPU's caches, the work runs once more ahead of the first event.
    """
    before, behind = (stack.enter_context(cuda.event(timing=True)) for _ in range(2))
    scratch = stack.enter_context(cuda.memory(FILL_BYTES)).address

    def run() -> float:
        for _ in range(FILLS):
            stream.fill(scratch, 0, FILL_BYTES)
        work()
        stream.record(before)
        work()
        stream.record(behind)
        behind.synchronize()
        return behind.elapsed_ms(before)

    return run


def captured(stack: ExitStack, stream: Stream, work: Callable[[], None]) -> Callable[[], None]:
    """The same work as a graph, so that what is timed is the GPU and not the launches."""
    work()
    stream.synchronize()
    stream.begin_capture()
    work()
    graph: Graph = stack.enter_context(stream.end_capture())
    return lambda: graph.launch(stream)
