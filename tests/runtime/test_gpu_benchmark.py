"""`benchmarks/gpu.py` where there is no GPU: what it does when one is lost or absent, and how it times."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gpu
import gpu_record
import gpu_timing
import numpy as np
import pytest
from host_cuda import HostCuda, HostStream
from host_engine import HostEngine

from ssd_edge.errors import MissingDependencyError
from ssd_edge.runtime.cuda import CudaError, CudaFatalError
from ssd_edge.runtime.detector import open_detector
from ssd_edge.runtime.gpu_detector import GpuDetector

LOST = RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with TORCH_USE_CUDA_DSA")


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (CudaFatalError("gone"), True),
        (LOST, True),
        (RuntimeError("CUDA out of memory. Tried to allocate 20 GiB"), False),
        (RuntimeError("an illegal memory access was encountered, says some other library"), False),
        (CudaError("CUDA: no graph"), False),
    ],
)
def test_what_loses_the_gpu(error: Exception, lost: bool) -> None:
    assert gpu_record.is_lost(error) == lost


def test_rows_that_were_measured_are_kept_when_the_gpu_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(error: Exception) -> Any:
        raise error

    def section(_: Any, rows: list[gpu.Row]) -> None:
        gpu.attempt(rows, {"row": 1}, lambda: {"ms": 2.0})
        gpu.attempt(rows, {"row": 2}, lambda: fail(ValueError("odd")))
        gpu.attempt(rows, {"row": 3}, lambda: fail(LOST))

    monkeypatch.setattr(gpu, "SECTIONS", {"first": section, "second": section})
    figures: dict[str, Any] = {}
    gpu.run_sections(None, ["first", "second"], figures, tmp_path / "gpu.json")
    assert figures["first"][:2] == [{"row": 1, "ms": 2.0}, {"row": 2, "failed": "ValueError: odd"}]
    assert figures["first"][2]["failed"].startswith("the GPU is lost: RuntimeError: CUDA error: an illegal")
    assert list(figures) == ["first"]
    assert json.loads((tmp_path / "gpu.json").read_text())["first"] == figures["first"]


def test_the_gpu_is_busy_until_all_that_is_timed_is_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_timing, "FILL_BYTES", 1000)
    calls: list[str] = []
    for name in ("fill", "record"):
        real = getattr(HostStream, name)
        monkeypatch.setattr(HostStream, name, lambda *a, name=name, real=real: (calls.append(name), real(*a)))
    cuda = HostCuda()
    with gpu_timing.ExitStack() as stack, cuda.stream() as stream:
        run = gpu_timing.on_the_gpu(stack, cuda, stream, lambda: calls.append("work"))
        assert run() >= 0
    assert calls == ["fill"] * gpu_timing.FILLS + ["work", "record", "work", "record"]
    assert cuda.allocated == 0


def test_without_cuda_core(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def absent() -> None:
        raise MissingDependencyError("no cuda-core", extra="cuda13")

    monkeypatch.setattr(gpu, "open_cuda", absent)
    monkeypatch.setattr(gpu, "make_inputs", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == "no cuda-core; in the folder of ssd-edge: pip install '.[cuda13]'\n"


def test_graphs_and_preprocessing_are_measured(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_timing, "FILL_BYTES", 1000)
    with open_detector(model_path, threads=1) as cpu:
        engine = HostEngine(cpu.infer, (cpu.card.height, cpu.card.width), cuda=HostCuda(integrated=True))
        bench: Any = SimpleNamespace(cuda=engine.cuda, runs=2, frame=np.zeros((48, 64, 3), np.uint8))
        row = gpu._whole_graph_ms(bench, lambda: GpuDetector(engine, cpu.card, slots=1))
    assert row.keys() == {"from_pinned_ms", "from_gpu_ms", "engine_ms", "more_than_engine"}
    assert engine.captures == 2  # the network with NMS, and the engine alone
    assert engine.enqueued == 3  # one step by step, and the captures
    rows: list[gpu.Row] = []
    gpu.preprocessing(bench, rows)
    assert [len(row) for row in rows] == [4, 5], rows
    assert min(rows[1]["mapped_ms"], rows[1]["copied_ms"]) > 0
    assert engine.cuda.allocated == 0
