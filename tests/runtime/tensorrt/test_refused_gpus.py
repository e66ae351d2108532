"""A GPU that TensorRT-RTX does not support: how its words are told from other errors, and the remedy."""

from __future__ import annotations

import mmap
import re
from pathlib import Path
from typing import Any

import pytest

from ssd_edge.errors import ModelFileError, SsdEdgeError
from ssd_edge.runtime.cuda.base import Gpu
from ssd_edge.runtime.host.kind import Host
from ssd_edge.runtime.tensorrt import log
from ssd_edge.runtime.tensorrt.builder import CompileOptions, compile_network, parse_onnx
from ssd_edge.runtime.tensorrt.engine import deserialise
from ssd_edge.runtime.tensorrt.engine_card import BatchSizes
from ssd_edge.runtime.tensorrt.log import UnsupportedGpuError
from ssd_edge.runtime.tensorrt.versions import TensorRT
from tests.fakes.tensorrt import Severity, fake_tensorrt
from tests.fakes.tensorrt_script import Script
from tests.runtime.tensorrt.hosts import DESKTOP, FOR_CUDA_12, JETPACK, JETSON, OLDER_DRIVER, TENSORRT

# Of TensorRT-RTX 1.7.1: when it loads an engine on a GPU that it does not list, and when the engine is for others.
REFUSAL = (
    "The engine cannot run on this GPU, which has compute capability ",
    "TensorRT-RTX does not support this compute capability, so the engine cannot be rebuilt for it.",
)
FOR_OTHERS = "Rebuild the engine for compute capability "
BUILD_REFUSAL = ("Target GPU SM ", " is not supported by this TensorRT release.")
NO_REFUSAL = "Updating targets to remove unsupported SMs"  # said while it builds, of other GPUs
SM_REFUSAL = "Unsupported sm version."
H200 = Gpu("NVIDIA H200", "9.0", "13.0")


def test_the_words_of_a_refusal_are_those_of_the_library() -> None:
    libraries = pytest.importorskip("tensorrt_rtx_libs")
    path = Path(libraries.__file__).with_name("libtensorrt_rtx.so.1")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for words in (*REFUSAL, FOR_OTHERS, *BUILD_REFUSAL, NO_REFUSAL, SM_REFUSAL):
            assert content.find(words.encode()) != -1


@pytest.fixture
def h200(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "find_gpu", lambda: H200)
    monkeypatch.setattr(log, "read_host", lambda: DESKTOP)
    monkeypatch.setattr(log, "is_installed", lambda _: False)


UNSUPPORTED = (
    r"^TensorRT-RTX 1\.7\.1 does not support NVIDIA H200 \(compute capability 9\.0\), it lists compute capability "
    rf"7\.5, 12\.0: .*; use TensorRT \({re.escape(TENSORRT)}\), or run the \.onnx file with ONNX Runtime or the "
    "checkpoint with PyTorch$"
)


def refusing_rtx(*words: str, **members: object) -> TensorRT:
    """A TensorRT-RTX 1.7.1 that loads nothing and builds nothing, with these words."""
    script = Script(
        loads=False, plan=None, says=[(Severity.ERROR, "Error Code 4: API Usage Error (" + " ".join(words))]
    )
    return fake_tensorrt(script, "1.7.1", "rtx", **members)


@pytest.mark.usefixtures("h200")
@pytest.mark.parametrize(
    "words", [(f"{REFUSAL[0]}9.0.",), (f"{REFUSAL[0]}9.0.", REFUSAL[1]), (REFUSAL[1],), (SM_REFUSAL,)]
)
def test_rtx_refuses_a_gpu_when_it_loads(words: tuple[str, ...]) -> None:
    with pytest.raises(UnsupportedGpuError, match=UNSUPPORTED):
        deserialise(refusing_rtx(*words), b"plan", source="m.engine")


@pytest.mark.usefixtures("h200")
def test_rtx_refuses_a_gpu_when_it_builds() -> None:
    rtx = refusing_rtx(f"{BUILD_REFUSAL[0]}90{BUILD_REFUSAL[1]}")
    with pytest.raises(UnsupportedGpuError, match=UNSUPPORTED):
        compile_network(parse_onnx(rtx, b"", source="m.onnx"), CompileOptions(BatchSizes(1, 1, 1)))


@pytest.mark.usefixtures("h200")
def test_rtx_refuses_a_gpu_when_it_starts() -> None:
    def start(logger: Any) -> None:
        logger.log(Severity.ERROR, f"{REFUSAL[0]}9.0. {REFUSAL[1]}")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    with pytest.raises(UnsupportedGpuError, match=UNSUPPORTED):
        parse_onnx(refusing_rtx("", Builder=start), b"", source="m.onnx")
    with pytest.raises(UnsupportedGpuError, match=UNSUPPORTED):
        deserialise(refusing_rtx("", Runtime=start), b"plan", source="m.engine")


@pytest.mark.usefixtures("h200")
@pytest.mark.parametrize(
    ("host", "there", "fix"),
    [
        (OLDER_DRIVER, False, f"({FOR_CUDA_12})"),
        (JETSON, False, f"({JETPACK})"),
        (JETSON, True, "with --tensorrt tensorrt"),
    ],
)
def test_a_gpu_that_rtx_refuses_gets_the_tensorrt_for_its_machine(
    monkeypatch: pytest.MonkeyPatch, host: Host, there: bool, fix: str
) -> None:
    monkeypatch.setattr(log, "read_host", lambda: host)
    monkeypatch.setattr(log, "is_installed", lambda _: there)
    with pytest.raises(UnsupportedGpuError, match=re.escape(f"use TensorRT {fix}, or run")):
        deserialise(refusing_rtx(REFUSAL[1]), b"plan", source="m.engine")


OUT_OF_MEMORY = "Error Code 1: Cuda Runtime (out of memory)"


@pytest.mark.usefixtures("h200")
@pytest.mark.parametrize(
    "says",
    [
        [(Severity.WARNING, NO_REFUSAL), (Severity.ERROR, OUT_OF_MEMORY)],
        [(Severity.WARNING, REFUSAL[1]), (Severity.ERROR, OUT_OF_MEMORY)],
        [(Severity.ERROR, BUILD_REFUSAL[0] + "61" + BUILD_REFUSAL[1]), (Severity.ERROR, OUT_OF_MEMORY)],
    ],
)
def test_lack_of_memory_is_no_refusal_of_the_gpu(says: list[tuple[Severity, str]]) -> None:
    rtx = fake_tensorrt(Script(loads=False, plan=None, says=says), "1.7.1", "rtx")
    for fails in (
        lambda: deserialise(rtx, b"plan", source="m.engine"),
        lambda: compile_network(parse_onnx(rtx, b"", source="m.onnx"), CompileOptions(BatchSizes(1, 1, 1))),
    ):
        with pytest.raises(SsdEdgeError, match="ran out of GPU memory") as caught:
            fails()
        assert type(caught.value) is SsdEdgeError


@pytest.mark.usefixtures("h200")
@pytest.mark.parametrize("severity", [Severity.WARNING, Severity.ERROR])
def test_targets_that_are_left_out_are_no_refusal_of_the_gpu(severity: Severity) -> None:
    says = [(severity, NO_REFUSAL), (Severity.ERROR, "Error Code 1: Cask (no launch)")]
    rtx = fake_tensorrt(Script(loads=False, says=says), "1.7.1", "rtx")
    with pytest.raises(ModelFileError, match=r"cannot load it: .*no launch"):
        deserialise(rtx, b"plan", source="m.engine")


@pytest.mark.usefixtures("h200")
def test_an_engine_for_other_gpus_is_to_be_built_again() -> None:
    rtx = refusing_rtx(f"{REFUSAL[0]}8.9.", f"{FOR_OTHERS}8.9 with IBuilderConfig::setComputeCapability")
    with pytest.raises(ModelFileError, match="build it again here"):
        deserialise(rtx, b"plan", source="m.engine")
