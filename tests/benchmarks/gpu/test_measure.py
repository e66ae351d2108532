"""`benchmarks/gpu/measure.py` where there is no GPU: what it does when one is lost or absent, and how it times."""

import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from benchmarks.evidence.claims import CLAIMS
from benchmarks.gpu import bench, correctness, dry_run, inputs, measure, models, record, speed, timing
from benchmarks.gpu.record import Row, attempt
from ssd_edge.errors import MissingDependencyError
from ssd_edge.runtime.backends.gpu_detector import GpuDetector
from ssd_edge.runtime.cuda.errors import CudaError, CudaFatalError
from ssd_edge.runtime.detector import open_detector
from tests.fakes.host_cuda import HostCuda, HostStream
from tests.fakes.host_engine import HostEngine

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
    assert record.is_lost(error) == lost


def test_rows_that_were_measured_are_kept_when_the_gpu_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(error: Exception) -> Any:
        raise error

    def section(_: Any, rows: list[Row]) -> None:
        attempt(rows, {"row": 1}, lambda: {"ms": 2.0})
        attempt(rows, {"row": 2}, lambda: fail(ValueError("odd")))
        attempt(rows, {"row": 3}, lambda: fail(LOST))

    monkeypatch.setattr(measure, "SECTIONS", {"first": section, "second": section})
    figures: dict[str, Any] = {}
    measure.run_sections(cast(Any, None), ["first", "second"], figures, tmp_path / "gpu.json")
    assert figures["first"][:2] == [{"row": 1, "ms": 2.0}, {"row": 2, "failed": "ValueError: odd"}]
    assert figures["first"][2] == {"row": 3, "failed": f"RuntimeError: {LOST}"}
    assert figures["first"][3]["failed"].startswith("the GPU is lost: RuntimeError: CUDA error: an illegal")
    assert list(figures) == ["first"]
    assert json.loads((tmp_path / "gpu.json").read_text())["first"] == figures["first"]


def test_the_gpu_is_busy_until_all_that_is_timed_is_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "FILL_BYTES", 1000)
    calls: list[str] = []

    def noted(name: str, real: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            calls.append(name)
            real(*arguments)

        return call

    for name in ("fill", "record"):
        monkeypatch.setattr(HostStream, name, noted(name, getattr(HostStream, name)))
    cuda = HostCuda()
    with ExitStack() as stack, cuda.stream() as stream:
        run = timing.on_the_gpu(stack, cuda, stream, lambda: calls.append("work"))
        assert run() >= 0
    assert calls == ["fill"] * timing.FILLS + ["work", "record", "work", "record"]
    assert cuda.allocated == 0


def test_without_cuda_core(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def absent() -> None:
        raise MissingDependencyError("no cuda-core", extra="cuda13")

    monkeypatch.setattr(measure, "open_cuda", absent)
    monkeypatch.setattr(measure, "make_inputs", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["measure.py"])
    with pytest.raises(SystemExit) as ended:
        measure.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == "no cuda-core; in the folder of ssd-edge: pip install '.[cuda13]'\n"


def test_graphs_and_preprocessing_are_measured(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "FILL_BYTES", 1000)
    with open_detector(model_path, threads=1) as cpu:
        engine = HostEngine(cpu.infer, (cpu.card.height, cpu.card.width), cuda=HostCuda(integrated=True))
        bench: Any = SimpleNamespace(cuda=engine.cuda, runs=2, frame=np.zeros((48, 64, 3), np.uint8))
        row = speed.whole_graph_ms(bench, lambda: GpuDetector(engine, cpu.card, slots=1))
    assert row.keys() == {"from_pinned_ms", "from_gpu_ms", "engine_ms", "more_than_engine"}
    assert engine.captures == 2  # the network with NMS, and the engine alone
    assert engine.enqueued == 3  # one step by step, and the captures
    rows: list[Row] = []
    speed.preprocessing(bench, rows)
    assert [len(row) for row in rows] == [4, 5], rows
    assert min(rows[1]["mapped_ms"], rows[1]["copied_ms"]) > 0
    assert engine.cuda.allocated == 0


def test_what_is_measured_is_on_the_disk_before_the_next_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def look() -> Row:
        seen.append((tmp_path / "gpu.json").read_text())
        return {}

    def section(_: Any, rows: list[Row]) -> None:
        attempt(rows, {"row": 1}, lambda: {"ms": 2.0})
        attempt(rows, {"row": 2}, look)

    monkeypatch.setattr(measure, "SECTIONS", {"first": section})
    measure.run_sections(cast(Any, None), ["first"], {}, tmp_path / "gpu.json")
    assert json.loads(seen[0]) == {"first": [{"row": 1, "ms": 2.0}]}
    assert [path.name for path in tmp_path.iterdir()] == ["gpu.json"]


def test_every_section_has_a_dry_run() -> None:
    assert list(dry_run.PREPARATIONS) == list(measure.SECTIONS)


def test_a_contender_that_fails_leaves_the_others_their_figures() -> None:
    turns: list[str] = []

    def fails_at_the_third() -> float:
        turns.append("other")
        if turns.count("other") == 3:
            raise ValueError("odd")
        return 9.0

    def one() -> float:
        turns.append("one")
        return float(turns.count("one"))

    left_out: list[str] = []
    found = timing.medians_ms(
        {"other": fails_at_the_third, "one": one}, 3, lambda name, error: left_out.append(f"{name}: {error}")
    )
    assert (found, left_out) == ({"one": 5.0}, ["other: odd"])  # of 4, 5, 6: the first three warm up
    assert turns == ["other", "one"] * 3 + ["one"] * 3
    with pytest.raises(ValueError, match="odd"):
        timing.medians_ms({"other": lambda: (_ for _ in ()).throw(ValueError("odd"))}, 3)


@pytest.fixture
def quick_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark on `HostCuda`, with as few launches as there can be."""
    monkeypatch.setattr(measure, "open_cuda", HostCuda)
    monkeypatch.setattr(speed, "SUPPRESSED_BATCHES", (1, 2))
    monkeypatch.setattr(timing, "WARM_UP", 0)
    monkeypatch.setattr(timing, "FILL_BYTES", 1000)


def run_main(monkeypatch: pytest.MonkeyPatch, output: Path, *arguments: str) -> dict[str, Any]:
    monkeypatch.setattr(sys, "argv", ["measure.py", "--runs", "1", "-o", str(output), *arguments])
    measure.main()
    figures: dict[str, Any] = json.loads(output.read_text())
    return figures


def without(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """As if these were not installed."""
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)


def test_what_runs_on_a_jetson_without_torch(quick_host: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without(monkeypatch, "torch", "torchvision", "safetensors", "onnx", "pycocotools", "zxingcpp")
    without(monkeypatch, "tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")
    figures = run_main(monkeypatch, tmp_path / "gpu.json", "--map", "bundled", str(tmp_path), "all")
    assert list(figures)[-len(measure.SECTIONS) :] == list(measure.SECTIONS)
    absent = "torch, torchvision, safetensors not installed"
    assert figures["absent"] == {"ssd300_vgg16": absent}
    assert "neither TensorRT nor TensorRT-RTX is installed" in figures["tensorrt"][0]["not_run"]
    checks = figures["correctness"]
    assert [row["ok"] for row in checks[:3]] == [True] * 3  # preprocess, NMS of the bundled model and of SSD300's size
    assert checks[3] == {"model": "ssd300_vgg16", "not_run": absent}
    assert {row["not_run"] for row in checks[4:6]} == {"torch, safetensors not installed"}
    assert checks[6]["not_run"] == "pycocotools not installed"
    assert [row.get("our_clip_nms_gpu_ms", 0) > 0 for row in figures["suppression"]] == [
        True,
        False,
        True,
        False,
    ]
    assert figures["suppression"][1]["not_run"] == absent
    assert figures["preprocess"][0]["gpu_ms"] > 0
    assert all("not_run" in row for name in ("whole_graph", "hardware_floor") for row in figures[name])
    assert not any("failed" in row for name in measure.SECTIONS for row in figures[name])


def claims(figures: dict[str, Any], step: str = "benchmark") -> dict[str, str]:
    """What the table of claims makes of figures: results of those that are measured."""
    verdicts = {claim.text: claim.verdict({step: {"status": "passed", "figures": figures}}) for claim in CLAIMS}
    return {text: found.result for text, found in verdicts.items() if found.result != "not measured"}


def test_the_claims_read_what_is_written(quick_host: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sections = ("correctness", "suppression", "preprocess")
    without(monkeypatch, "torch", "torchvision", "safetensors")
    figures = run_main(monkeypatch, tmp_path / "gpu.json", "--quick", "--sections", *sections)
    assert claims(figures) == {
        "preprocess, from BGR and NV12, against OpenCV": "passed",
        "NMS against `runtime/nms.py`": "passed",
        "NMS of SSD300": "failed",  # the processor is slow
        "preprocess of 1920×1080": "failed",
    }

    def fail(*_: Any) -> None:
        raise RuntimeError("odd")

    monkeypatch.setattr(speed, "preprocess_bgr", fail)
    monkeypatch.setitem(measure.SECTIONS, "suppression", fail)
    with pytest.raises(SystemExit) as ended:
        run_main(monkeypatch, tmp_path / "failed.json", "--quick", "--sections", *sections)
    assert ended.value.code == 1
    figures = json.loads((tmp_path / "failed.json").read_text())
    assert claims(figures) == {
        "preprocess, from BGR and NV12, against OpenCV": "passed",
        "NMS against `runtime/nms.py`": "passed",
        "NMS of SSD300": "failed",
        "NMS of SSD300, with softmax and decoding, against torchvision's": "failed",
        "preprocess of 1920×1080": "failed",
    }


def test_the_reference_where_nothing_can_be_exported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without(monkeypatch, "onnxscript")
    bundled = models.bundled()
    model = replace(bundled, onnx=None)
    bench: Any = SimpleNamespace(folder=tmp_path, frame=models.synthetic_frame())
    name, found = correctness.reference(bench, model)
    assert name.startswith("PyTorch, for want of an ONNX file: {'not_run': ")
    assert "onnxscript" in name
    assert len(found) == len(correctness.reference(bench, bundled)[1]) == 11


@pytest.mark.parametrize("section", ["correctness", "whole_graph", "end_to_end"])
def test_a_section_alone(section: str, quick_host: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Peers that this machine cannot run leave ours their figures."""

    def absent(*_: Any) -> None:
        raise record.NotRunError("left out")

    def open_on_host(checkpoint: Path, *, half: bool, batch: int) -> GpuDetector:
        with_model = open_detector(checkpoint.with_suffix(".onnx"), threads=1)
        engine = HostEngine(with_model.infer, (with_model.card.height, with_model.card.width), batch=(1, batch))
        return GpuDetector(engine, with_model.card, slots=1)

    monkeypatch.setattr(inputs, "random_ssd300", absent)
    for module in (bench, correctness):
        monkeypatch.setattr(module, "open_on_pytorch", open_on_host)
    without(monkeypatch, "torch", "torchvision", "safetensors")
    figures = run_main(monkeypatch, tmp_path / "gpu.json", "--quick", "--sections", section)
    assert figures["weights"] == {"ssdlite320_mobilenet_v3_large": "bundled"}
    rows = [row for row in figures[section] if "PyTorch fp32" in str(row)]
    if section == "correctness":
        assert (rows[0]["found"], rows[0]["detections"], rows[0]["reference"]) == (1.0, 11, "ONNX Runtime")
    elif section == "whole_graph":
        assert min(rows[0]["from_pinned_ms"], rows[0]["engine_ms"]) > 0
        assert list(claims(figures)) == ["preprocess and NMS, on top of the engine's time"]
    else:
        assert rows[0]["ms"].keys() == {"ssd-edge, PyTorch fp32", "ssd-edge, PyTorch fp16"}
        assert rows[0]["torchvision eager not_run"] == "torch, torchvision, safetensors not installed"
        assert any(key.startswith("ONNX Runtime CUDA ") for key in rows[0])  # not run, or failed
