"""How a run of an engine is timed."""

from __future__ import annotations

from typing import Any

import pytest

from ssd_edge.errors import SsdEdgeError
from ssd_edge.export.engine.timing import ROUNDS, RUNS, WARM_UPS, measure_run_ms
from ssd_edge.runtime.backends.tensorrt import TensorRTEngine
from tests.fakes.host_cuda import HostEvent
from tests.fakes.tensorrt import Severity, fake_tensorrt
from tests.fakes.tensorrt_script import CARD, FakeCuda, Script


def test_the_time_of_a_run_is_the_median_without_the_first_ones() -> None:
    times_ms = iter([1e4] * WARM_UPS + [3.0 * RUNS] * (ROUNDS // 2 + 1) + [500.0 * RUNS] * (ROUNDS // 2))

    class ScriptedEvent(HostEvent):
        def elapsed_ms(self, earlier: Any) -> float:
            assert earlier is not self
            return next(times_ms)

    script = Script()
    cuda = FakeCuda(script)
    cuda.event = lambda *, timing=False: ScriptedEvent(timing)  # type: ignore[method-assign]
    with TensorRTEngine(fake_tensorrt(script), b"plan", CARD, cuda=cuda, source="m.engine") as engine:
        assert measure_run_ms(engine, 1) == 3.0
    assert next(times_ms, None) is None
    assert [call[0] for call in script.calls].count("execute") == 2  # once as it comes, once to be captured


@pytest.mark.parametrize("has_graphs", [True, False])
def test_where_no_graph_can_hold_it_a_run_is_timed_as_it_comes(has_graphs: bool) -> None:
    script = Script(capturable=False)
    cuda = FakeCuda(script)
    cuda.has_graphs = has_graphs
    rtx = fake_tensorrt(script, "1.7.1", "rtx")
    with TensorRTEngine(rtx, b"plan", CARD, cuda=cuda, source="m.engine") as engine:
        assert measure_run_ms(engine, 1) > 0
    runs = [call[0] for call in script.calls].count("execute")
    assert runs == 1 + RUNS * (WARM_UPS + ROUNDS)


def test_an_engine_that_does_not_run_is_not_timed() -> None:
    script = Script(runs=False, says=[(Severity.ERROR, "Error Code 1: Cask (no launch)")])
    cuda = FakeCuda(script)
    with (
        TensorRTEngine(fake_tensorrt(script), b"plan", CARD, cuda=cuda, source="m.engine") as engine,
        pytest.raises(SsdEdgeError, match=r"does not run: .*no launch"),
    ):
        measure_run_ms(engine, 1)
