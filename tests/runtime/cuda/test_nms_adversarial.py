"""The suppression's kernels on hard cases; and that these cases would find an error."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ssd_edge.runtime.cuda.kernels import KERNEL_SOURCE, KERNELS
from tests.fakes.host_cuda import ORDERS, HostCuda
from tests.runtime.cuda import without_barrier
from tests.runtime.cuda.adversarial_nms import adversarial_batch
from tests.runtime.cuda.nms_mutations import MUTATIONS
from tests.runtime.cuda.nms_runs import references, run_nms
from tests.runtime.cuda.without_barrier import BARRIER, WRONG
from tests.runtime.equal_detections import assert_all_equal

BARRIER_SECONDS = 1200  # for up to 78 runs and the compilation


@pytest.mark.parametrize("part", range(10))
def test_nms_on_ten_thousand_adversarial_cases(part: int) -> None:
    for seed in range(125 * part, 125 * (part + 1)):  # batches of 8
        boxes, scores, settings = adversarial_batch(seed)
        wanted = references(boxes, scores, **settings)
        for order in ORDERS:
            found = run_nms(HostCuda(order=order), boxes, scores, threads=(32, 64, 96)[seed % 3], **settings)
            assert_all_equal(found, wanted)


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_cases_find_an_error(name: str) -> None:
    source = KERNEL_SOURCE
    for right, wrong in MUTATIONS[name]:
        assert source.count(right) == 1
        source = source.replace(right, wrong)

    def differs(seed: int) -> bool:
        boxes, scores, settings = adversarial_batch(seed)
        found = run_nms(HostCuda(), boxes, scores, source=source, **settings)
        return any(
            not np.array_equal(getattr(a, field), getattr(b, field))
            for a, b in zip(found, references(boxes, scores, **settings), strict=True)
            for field in ("boxes_xyxy", "scores", "labels")
        )

    assert any(differs(seed) for seed in range(100))


@pytest.mark.long
@pytest.mark.parametrize("index", range(KERNEL_SOURCE.count(BARRIER)))
def test_no_barrier_can_be_left_out(index: int) -> None:
    """Without it the results are wrong in one of the orders, or the process crashes, or it never ends."""
    HostCuda().module(KERNEL_SOURCE, KERNELS)  # skips where nothing can be compiled
    command = [sys.executable, "-m", without_barrier.__name__, str(index)]
    run = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, timeout=BARRIER_SECONDS)
    assert run.returncode in (WRONG, -signal.SIGSEGV, -signal.SIGALRM), run.stderr.decode()
