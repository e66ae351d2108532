"""A detector on the processor, and GPU detectors whose engine computes the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ssd_edge.runtime.backends.base import Detector
from ssd_edge.runtime.backends.gpu_detector import GpuDetector
from ssd_edge.runtime.detector import open_detector
from tests.fakes.host_cuda import HostCuda
from tests.fakes.host_engine import HostEngine
from tests.runtime.backends.gpu_runs import engine_of


@pytest.fixture
def cpu(model_path: Path) -> Iterator[Detector]:
    """The reference, which is also what engines compute: cells of red, green and blue."""
    with open_detector(model_path, threads=1) as detector:
        yield detector


@pytest.fixture
def open_gpu(cpu: Detector) -> Iterator[Callable[..., GpuDetector]]:
    """Make a detector with an engine that computes what `cpu` does; nothing of it may be left on the GPU."""
    opened = []

    def make(cuda: HostCuda | None = None, batch: tuple[int, int] = (1, 4), **options: Any) -> GpuDetector:
        engine = HostEngine(cpu.infer, (cpu.card.height, cpu.card.width), cuda=cuda, batch=batch)
        opened.append(GpuDetector(engine, cpu.card, **options))
        return opened[-1]

    yield make
    for detector in opened:
        detector.close()
        assert engine_of(detector).cuda.allocated == 0
