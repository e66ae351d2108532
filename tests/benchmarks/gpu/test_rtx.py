"""`benchmarks/gpu/rtx.py` with the real TensorRT-RTX, which builds without a GPU and says why it does not load."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import rtx
from ssd_edge.bundled import bundled_model
from ssd_edge.runtime.cuda.find import find_gpu


def run(monkeypatch: pytest.MonkeyPatch, output: Path, *arguments: str) -> tuple[Any, dict[str, Any]]:
    """Exit status and figures."""
    monkeypatch.setattr(sys, "argv", ["rtx.py", "-o", str(output), *arguments])
    try:
        rtx.main()
        status: Any = 0
    except SystemExit as ended:
        status = ended.code
    return status, json.loads(output.read_text())


@pytest.fixture
def real_rtx() -> None:
    pytest.importorskip("tensorrt_rtx_bindings")


def test_each_stage_is_recorded(real_rtx: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    status, figures = run(monkeypatch, tmp_path / "rtx.json")
    failed = [row for row in figures["stages"] if "failed" in row]
    assert status == (1 if failed and "skipped" not in figures else 0)
    assert failed or find_gpu() is not None
    assert figures["tensorrt"].startswith("TensorRT-RTX 1.")
    stages = {(row["engine"], row["stage"]): row for row in figures["stages"]}
    for precision, megabytes in (("fp32", 8), ("fp16", 4), ("int8", 3)):
        assert stages[precision, "build"]["bytes"] > megabytes * 1e6
        assert any("Engine generation completed" in line for line in stages[precision, "build"]["messages"])
        if find_gpu() is None:
            refused = stages[precision, "load"]
            assert "finds no NVIDIA driver or GPU here" in refused["failed"]
            assert any("ERROR: " in line and "driver version is insufficient" in line for line in refused["messages"])
            assert (precision, "run") not in stages


def test_a_file_that_tensorrt_cannot_parse_is_a_failure(
    real_rtx: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    status, figures = run(monkeypatch, tmp_path / "rtx.json", "--onnx", str(broken), str(bundled_model()))
    assert status == 1
    first, second, *others = figures["stages"]
    assert (first["stage"], second["stage"]) == ("onnx", "parse")
    assert "ModelFileError" in second["failed"]
    assert second["messages"]
    assert [row["stage"] for row in others[:3]] == ["onnx", "parse", "build"]  # of the other file


@pytest.mark.parametrize(
    ("rows", "status", "skipped"),
    [
        ([{"stage": "load", "failed": "UnsupportedGpuError: not listed"}], 0, "UnsupportedGpuError: not listed"),
        ([{"stage": "load", "failed": "SsdEdgeError: no memory"}], 1, None),
        ([{"stage": "run", "failed": "CudaError: lost"}], 1, None),
        ([{"stage": "run", "ok": False}], 1, None),
        ([{"stage": "run", "ok": True}], 0, None),
        (
            [{"stage": "load", "failed": "UnsupportedGpuError: a"}, {"stage": "build", "failed": "SsdEdgeError: b"}],
            1,
            "UnsupportedGpuError: a",
        ),
    ],
)
def test_what_fails_shows_in_the_exit_status(
    rows: list[dict[str, Any]], status: int, skipped: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """But for a GPU that TensorRT-RTX does not support."""
    monkeypatch.setattr(rtx, "load_tensorrt", lambda _: "TensorRT-RTX")
    monkeypatch.setattr(rtx, "onnx_files", lambda *_: {str(number): row for number, row in enumerate(rows)})
    monkeypatch.setattr(rtx, "try_stages", lambda found, trt, name, row, only_build: found.append(row))
    ended, figures = run(monkeypatch, tmp_path / "rtx.json")
    assert (ended, figures.get("skipped"), figures["stages"]) == (status, skipped, rows)


def test_without_tensorrt_rtx(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in ("tensorrt_rtx_bindings", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, module, None)
    status, figures = run(monkeypatch, tmp_path / "rtx.json")
    assert status == 0
    assert figures["skipped"].startswith("no TensorRT-RTX is installed")
