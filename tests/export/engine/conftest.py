"""The Jetson Orin that engines are built on."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssd_edge.export.engine import build, trial
from ssd_edge.runtime.tensorrt import log
from tests.fakes.orin import JETSON, Orin
from tests.fakes.tensorrt_script import FakeCuda


@pytest.fixture
def orin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Orin:
    orin = Orin(tmp_path)
    monkeypatch.setattr(build, "load_tensorrt", orin.load)
    monkeypatch.setattr(trial, "measure_run_ms", orin.measure)
    monkeypatch.setattr(trial, "open_cuda", lambda: FakeCuda(orin.script))
    for module, name in ((build, "read_gpu"), (build, "find_gpu"), (log, "find_gpu")):
        monkeypatch.setattr(module, name, lambda: orin.gpu)
    monkeypatch.setattr(log, "read_host", lambda: JETSON)
    monkeypatch.setattr(log, "is_installed", lambda _: False)
    return orin
