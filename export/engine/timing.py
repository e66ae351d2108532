"""How long a run of an engine takes on the GPU at hand."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from ssd_edge.errors import SsdEdgeError
from ssd_edge.runtime.backends.gpu_engine import Engine
from ssd_edge.runtime.cuda.base import capturing
from ssd_edge.runtime.cuda.errors import CudaFatalError

logger = logging.getLogger(__name__)

RUNS = 10  # between two events, so that the GPU has work while the processor launches the next
WARM_UPS = 3
ROUNDS = 15


def measure_run_ms(engine: Engine, batch: int) -> float:
    """Time of a run in milliseconds: the median over rounds of several runs between two events on the GPU.

    The run is a CUDA graph where one can hold it, as in `stream`. Whatever lies in the engine's input is its input.

    Raises:
        SsdEdgeError: it does not run.
    """
    with ExitStack() as stack:
        run = _graph_or_call(engine, batch, stack)
        before, behind = (stack.enter_context(engine.cuda.event(timing=True)) for _ in range(2))
        times_ms = []
        for _ in range(WARM_UPS + ROUNDS):
            engine.stream.record(before)
            for _ in range(RUNS):
                run()
            engine.stream.record(behind)
            behind.synchronize()
            times_ms.append(behind.elapsed_ms(before) / RUNS)
    return statistics.median(times_ms[WARM_UPS:])


def _graph_or_call(engine: Engine, batch: int, stack: ExitStack) -> Callable[[], None]:
    call = partial(engine.enqueue, batch)
    call()  # what has never run cannot be captured
    engine.stream.synchronize()
    if not engine.cuda.has_graphs:
        return call
    try:
        with capturing:
            graph = stack.enter_context(engine.capture(call))
    except CudaFatalError:
        raise
    except SsdEdgeError as error:
        logger.debug("timed without a CUDA graph: %s", error)
        return call
    return partial(graph.launch, engine.stream)
