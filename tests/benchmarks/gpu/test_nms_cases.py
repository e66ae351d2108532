"""`benchmarks/gpu/nms_cases.py` with the kernels compiled for the host: what is wrong is named."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu import cases, nms_cases
from benchmarks.gpu.cases import NmsCase, hard_cases, separate_boxes, ssd300_case
from ssd_edge.detections import Detections
from ssd_edge.runtime.cuda.errors import CudaError
from ssd_edge.runtime.cuda.kernels import KERNEL_SOURCE
from tests.fakes.host_cuda import HostCuda
from tests.runtime.cuda.nms_mutations import MUTATIONS


@pytest.mark.parametrize("order", [0, 1, 7])
def test_the_kernels_pass(order: int) -> None:
    """Threads forward, in reverse and shuffled."""
    assert list(nms_cases.differences(HostCuda(order=order), hard_cases())) == []


def test_ssd300s_size_passes() -> None:
    assert list(nms_cases.differences(HostCuda(), [ssd300_case()], repeat=2)) == []


@pytest.mark.parametrize("name", ["equal scores", "candidates"])
def test_the_cases_find_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = KERNEL_SOURCE
    for right, wrong in MUTATIONS[name]:
        source = source.replace(right, wrong)
    monkeypatch.setattr(cases, "KERNEL_SOURCE", source)
    assert any("NMS of" in line for line in nms_cases.differences(HostCuda(), hard_cases()))


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    """The exit status of the program."""
    monkeypatch.setattr(sys, "argv", ["nms_cases.py", *arguments])
    monkeypatch.setattr(nms_cases, "hard_cases", lambda: [NmsCase("one", separate_boxes(9)[None], SCORES)])
    with pytest.raises(SystemExit) as ended:
        nms_cases.main()
    return ended.value.code


SCORES = np.full((1, 9, 2), 0.5, np.float32)


def test_the_exit_status(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(nms_cases, "open_cuda", HostCuda)
    assert run(monkeypatch, "--repeat", "2") == 0
    assert capsys.readouterr().out == "0 differences in 1 cases of NMS and 4 of preprocess\n"

    def without_the_last(cuda: Any, case: NmsCase, repeat: int) -> Iterator[list[Detections]]:
        for found in cases.found_by(cuda, case, repeat=repeat):
            yield [Detections(each.boxes_xyxy[:-1], each.scores[:-1], each.labels[:-1]) for each in found]

    monkeypatch.setattr(nms_cases, "found_by", without_the_last)
    assert run(monkeypatch) == 1
    assert "NMS of one: run 0 differs from runtime/nms.py in images [0]" in capsys.readouterr().out


def test_a_preprocess_that_is_wrong_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nms_cases, "preprocess", lambda frame, size_hw: np.zeros((*size_hw, 3), np.uint8))
    lines = list(nms_cases.differences(HostCuda(), []))
    assert len(lines) == 8  # 4 sizes, BGR and YUV
    assert lines[0].startswith("preprocess_bgr of (1080, 1920) to (300, 300): ")
    assert lines[0].endswith(" levels apart; expected at most 1")


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def absent() -> None:
        raise CudaError("no GPU here")

    monkeypatch.setattr(nms_cases, "open_cuda", absent)
    assert run(monkeypatch) == 1
    assert capsys.readouterr().err == "no GPU here\n"


def test_it_loads_no_network() -> None:
    """compute-sanitizer is slow: nothing heavy is loaded under it."""
    code = (
        "import sys; from benchmarks.gpu import nms_cases; "
        "print(*sorted({'torch', 'onnx', 'onnxruntime', 'tqdm'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[3], timeout=120
    )
    assert (result.stdout, result.stderr) == ("\n", "")
