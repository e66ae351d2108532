"""`ssd-edge build` tries a new engine: on a Jetson Orin, with its DLA, and on a GPU that refuses it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ssd_edge.errors import GateFailedError, UsageError
from ssd_edge.runtime.host.fixes import tensorrt_fix
from ssd_edge.runtime.tensorrt import log
from ssd_edge.runtime.tensorrt.engine_card import read_engine_card
from tests.fakes.orin import DLA, GPU, JETSON, PASSING, REFUSAL, Orin
from tests.fakes.tensorrt import Severity


def test_a_build_times_a_run(orin: Orin) -> None:
    report = orin.build("fp16")
    card = read_engine_card(orin.folder / "fp16.engine")
    assert card.run_ms is not None
    assert card.run_ms > 0
    assert f"run: {card.run_ms:.3g} ms at batch 1 on this GPU" in str(report)
    assert report.advice is None  # there is no int8 to compare with


@pytest.mark.parametrize(
    ("precision", "reason"), [("int8", "a DLA takes no Q/DQ pairs"), ("fp32", "a DLA computes in half precision")]
)
def test_a_dla_takes_fp16_files_alone(orin: Orin, precision: str, reason: str) -> None:
    with pytest.raises(UsageError, match=rf"--dla 0: .* is {precision}, and {reason}; .*export .*--precision fp16"):
        orin.build(precision, dla=0)
    assert orin.script.calls == []
    assert [path.name for path in orin.folder.iterdir()] == [f"{precision}.onnx"]


def test_an_engine_for_the_dla_has_layers_there(orin: Orin) -> None:
    report = orin.build("fp16", dla=1, layers=DLA, script={"dla_cores": 2})
    assert report.card.dla == 1
    assert ("DLA_core", 1) in orin.script.calls
    assert ("runs on DLA", 1) in orin.script.calls


@pytest.mark.parametrize("layers", [GPU % "Half", '{"Layers": []}', "no JSON"])
def test_an_engine_that_fell_back_to_the_gpu_is_not_written(orin: Orin, layers: str) -> None:
    with pytest.raises(GateFailedError, match=r"fp16\.engine is not written: .*no layer there"):
        orin.build("fp16", dla=0, layers=layers, script={"dla_cores": 2})
    assert [path.name for path in orin.folder.iterdir()] == ["fp16.onnx"]


@pytest.mark.parametrize("lacking", ["loads", "has_context"])
def test_rtx_builds_for_other_gpus_and_names_the_one_that_it_refuses(orin: Orin, lacking: str) -> None:
    orin.flavour, orin.version = "rtx", "1.7.1"
    report = orin.build("fp16", script={lacking: False, "says": [(Severity.ERROR, REFUSAL)]})
    assert "TensorRT-RTX 1.7.1 does not support Orin (compute capability 8.7), it lists" in str(report.not_run)
    assert f"use TensorRT ({tensorrt_fix(JETSON)})" in str(report.not_run)
    assert "build it again" not in str(report)
    assert (report.card.layers, report.card.run_ms) == (None, None)
    assert (orin.folder / "fp16.engine").is_file()


def test_tensorrt_itself_writes_nothing_that_this_gpu_refuses(orin: Orin) -> None:
    says = [(Severity.ERROR, "Error Code 1: Cuda Runtime (no kernel image is available for execution on the device)")]
    with pytest.raises(log.UnsupportedGpuError, match=r"TensorRT 10\.3\.0 does not support Orin .*support matrix"):
        orin.build("fp16", script={"loads": False, "says": says})
    assert [path.name for path in orin.folder.iterdir()] == ["fp16.onnx"]


@pytest.mark.parametrize(("script", "words"), PASSING)
def test_rtx_keeps_an_engine_that_fails_to_run_once_and_says_why(
    orin: Orin, script: dict[str, Any], words: str
) -> None:
    orin.flavour, orin.version = "rtx", "1.7.1"
    report = orin.build("fp16", script=script)
    assert re.search(rf"^Orin did not run it this time, but the engine is kept: .*{words}", str(report.not_run))
    assert not re.search("does not support|use TensorRT|another GPU", str(report))
    assert (orin.folder / "fp16.engine").is_file()
