"""Which file is opened in place of an `.onnx`, and which engines are kept."""

import logging
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ssd_edge.card import INT8_METADATA_KEY
from ssd_edge.errors import GateFailedError, MissingDependencyError, ModelFileError, SsdEdgeError, UsageError
from ssd_edge.export.engine import cache as engine_cache
from ssd_edge.export.engine.cache import prepare_model
from ssd_edge.files import engine_cache_folder
from ssd_edge.runtime.gpu_use import GpuUse
from ssd_edge.runtime.host.fixes import tensorrt_fix
from ssd_edge.runtime.tensorrt.engine_card import BatchSizes, engine_card_path
from ssd_edge.runtime.tensorrt.log import UnsupportedGpuError
from tests.fakes.counted_builds import Machine
from tests.fakes.orin import GPU as ORIN_LAYERS
from tests.fakes.orin import JETSON, PASSING, REFUSAL, Orin
from tests.fakes.tensorrt import Severity, fake_tensorrt
from tests.fakes.tensorrt_script import Script


@pytest.fixture
def onnx(tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"an onnx file")
    return path


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    machine = Machine()
    monkeypatch.setenv("SSD_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(engine_cache, "look_for_gpu", lambda: GpuUse(True, None))
    monkeypatch.setattr(engine_cache, "read_gpu", machine.read_gpu)
    monkeypatch.setattr(engine_cache, "load_tensorrt", lambda: fake_tensorrt(machine.script, machine.version))
    monkeypatch.setattr(engine_cache, "build_engine", machine.build_engine)
    return machine


def test_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSD_EDGE_CACHE", raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    assert engine_cache_folder() == Path("/home/me/.cache/ssd-edge/engines")
    monkeypatch.setenv("SSD_EDGE_CACHE", "/data/engines")
    assert engine_cache_folder() == Path("/data/engines")


def test_an_engine_is_built_once(machine: Machine, onnx: Path, tmp_path: Path) -> None:
    engine = prepare_model(onnx)
    assert engine.parent == tmp_path / "cache"
    assert engine.name.startswith("m-")
    assert engine.read_bytes() == b"engine 1"
    assert prepare_model(onnx) == prepare_model(onnx, backend="tensorrt") == engine
    assert machine.builds == ["1"]


def test_the_advice_of_a_build_is_shown(machine: Machine, onnx: Path, caplog: pytest.LogCaptureFixture) -> None:
    machine.advice = "int8 is not faster on this GPU; use fp16"
    with caplog.at_level(logging.INFO):
        prepare_model(onnx)
    assert "int8 is not faster on this GPU; use fp16" in caplog.messages[-1]


def test_another_file_batch_version_or_gpu_is_another_engine(machine: Machine, onnx: Path) -> None:
    engines = {prepare_model(onnx), prepare_model(onnx, batch=BatchSizes(1, 4, 8))}
    machine.version = "10.4.0"
    engines.add(prepare_model(onnx))
    onnx.write_bytes(b"another onnx file")
    engines.add(prepare_model(onnx))
    machine.gpu = replace(machine.read_gpu(), name="Thor")
    engines.add(prepare_model(onnx))
    assert len(engines) == 5
    assert machine.builds == ["1", "1,4,8", "1", "1", "1"]


@pytest.mark.parametrize("harm", ["engine", "card"])
def test_a_damaged_engine_is_built_again(machine: Machine, onnx: Path, harm: str) -> None:
    engine = prepare_model(onnx)
    (engine if harm == "engine" else engine_card_path(engine)).write_bytes(b"{")
    assert prepare_model(onnx) == engine
    assert engine.read_bytes() == b"engine 2"


def test_other_files_and_backends_are_left_alone(machine: Machine, onnx: Path, tmp_path: Path) -> None:
    for name in ("m.pt", "m.engine", "m.safetensors", "m.txt"):
        assert prepare_model(tmp_path / name) == tmp_path / name
    assert prepare_model(tmp_path / "m.engine", backend="tensorrt") == tmp_path / "m.engine"
    assert prepare_model(onnx, backend="onnxruntime") == onnx
    assert machine.builds == []


def test_backends_that_do_not_fit(onnx: Path) -> None:
    with pytest.raises(UsageError, match="--backend cuda: expected auto, onnxruntime, tensorrt"):
        prepare_model(onnx, backend="cuda")
    with pytest.raises(UsageError, match=r"--backend tensorrt does not run m\.pt"):
        prepare_model(Path("m.pt"), backend="tensorrt")
    with pytest.raises(UsageError, match=r"--backend onnxruntime does not run m\.engine"):
        prepare_model(Path("m.engine"), backend="onnxruntime")


def test_a_file_that_is_not_there(machine: Machine) -> None:
    with pytest.raises(ModelFileError, match=r"no model file absent\.onnx"):
        prepare_model(Path("absent.onnx"))


def without_cuda_core(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is there, as far as can be seen without importing it."""

    def load() -> None:
        raise MissingDependencyError("cuda-core 0.7.0 is too old", extra="cuda12")

    monkeypatch.setattr(engine_cache, "read_gpu", load)


def without_tensorrt(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def load() -> None:
        raise MissingDependencyError("no TensorRT", extra="rtx")

    monkeypatch.setattr(engine_cache, "load_tensorrt", load)


def with_a_driver_for_another_cuda(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.gpu = None  # read_gpu fails as with cuda-bindings 13 on JetPack 6


def without_packages(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_cache, "look_for_gpu", lambda: GpuUse(True, "cuda-core is not installed; do so"))
    monkeypatch.setattr(engine_cache, "read_gpu", None)


@pytest.mark.parametrize(
    ("lack", "words"),
    [
        (without_cuda_core, "cuda-core 0.7.0 is too old; in the folder of ssd-edge: pip install '.[cuda12]'"),
        (without_tensorrt, "no TensorRT; in the folder of ssd-edge: pip install '.[rtx]'"),
        (with_a_driver_for_another_cuda, "there is no NVIDIA driver here"),
        (without_packages, "cuda-core is not installed; do so"),
    ],
)
def test_a_gpu_that_is_not_used_is_a_warning_with_the_fix(
    machine: Machine,
    onnx: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    lack: Callable[..., None],
    words: str,
) -> None:
    lack(machine, monkeypatch)
    assert prepare_model(onnx) == onnx
    reason = f"runs on the CPU, not on the NVIDIA GPU: {words} (--backend onnxruntime chooses the CPU)"
    assert caplog.messages == [f"{onnx} {reason}"]
    caplog.clear()
    said: list[str] = []
    assert prepare_model(onnx, on_cpu=said.append) == onnx
    assert (said, caplog.messages) == ([reason], [])
    with pytest.raises(SsdEdgeError, match=words.partition(";")[0]):
        prepare_model(onnx, backend="tensorrt")


def test_without_a_gpu_the_cpu_is_chosen_in_silence(
    machine: Machine, onnx: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engine_cache, "look_for_gpu", lambda: GpuUse(False, "there is no NVIDIA GPU here"))
    monkeypatch.setattr(engine_cache, "read_gpu", None)  # nothing is imported
    with caplog.at_level(logging.INFO):
        assert prepare_model(onnx) == onnx
    assert caplog.messages == []
    with pytest.raises(SsdEdgeError, match="there is no NVIDIA GPU here"):
        prepare_model(onnx, backend="tensorrt")


@pytest.fixture
def int8_for_cpu(tmp_path: Path) -> Path:
    onnx = pytest.importorskip("onnx")
    helper, uint8 = onnx.helper, onnx.TensorProto.UINT8
    ends = [helper.make_tensor_value_info(name, uint8, [1]) for name in ("images", "boxes")]
    graph = helper.make_graph([helper.make_node("Identity", ["images"], ["boxes"])], "g", ends[:1], ends[1:])
    model = helper.make_model(graph)
    helper.set_model_props(model, {INT8_METADATA_KEY: '{"target": "cpu"}'})
    path = tmp_path / "int8.onnx"
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("obstacle", [None, "cuda-core is not installed; do so"])
def test_an_int8_file_for_the_cpu_says_so_where_there_is_a_gpu(
    machine: Machine,
    int8_for_cpu: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    obstacle: str | None,
) -> None:
    monkeypatch.setattr(engine_cache, "look_for_gpu", lambda: GpuUse(True, obstacle))
    assert prepare_model(int8_for_cpu) == int8_for_cpu
    assert caplog.messages == [
        f"{int8_for_cpu} runs on the CPU, not on the NVIDIA GPU: it is an int8 file for the target cpu, which TensorRT "
        "does not read; for the GPU: ssd-edge export CHECKPOINT -o model.onnx --precision int8 --calib DATA --target "
        "tensorrt (--backend onnxruntime chooses the CPU)"
    ]
    assert machine.builds == []
    caplog.clear()
    assert prepare_model(int8_for_cpu, backend="onnxruntime") == int8_for_cpu
    monkeypatch.setattr(engine_cache, "look_for_gpu", lambda: GpuUse(False, "there is no NVIDIA GPU here"))
    assert prepare_model(int8_for_cpu) == int8_for_cpu
    assert caplog.messages == []


def test_a_build_that_fails_is_a_warning_unless_asked_for(
    machine: Machine, onnx: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine.error = GateFailedError("no layer in int8")
    assert prepare_model(onnx) == onnx
    assert "runs on the CPU, not on the NVIDIA GPU: no layer in int8" in caplog.messages[-1]
    with pytest.raises(GateFailedError):
        prepare_model(onnx, backend="tensorrt")
    machine.error = ModelFileError("external data")  # which ONNX Runtime is to be spared too
    with pytest.raises(ModelFileError):
        prepare_model(onnx)


def test_an_engine_of_an_unsupported_gpu_is_not_built_again(
    machine: Machine, onnx: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine.layers = None
    assert prepare_model(onnx) == onnx
    assert prepare_model(onnx) == onnx
    assert machine.builds == ["1"]
    assert "does not support Orin" in caplog.messages[-1]
    with pytest.raises(UnsupportedGpuError, match=r"does not support Orin.*delete"):
        prepare_model(onnx, backend="tensorrt")


@pytest.fixture
def cached(orin: Orin, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the cache, on a orin with TensorRT-RTX."""
    orin.flavour, orin.version = "rtx", "1.7.1"
    folder = orin.folder / "cache"
    monkeypatch.setenv("SSD_EDGE_CACHE", str(folder))
    monkeypatch.setattr(engine_cache, "look_for_gpu", lambda: GpuUse(True, None))
    monkeypatch.setattr(engine_cache, "read_gpu", lambda: orin.gpu)
    monkeypatch.setattr(engine_cache, "load_tensorrt", lambda: orin.load(None))
    return folder


@pytest.mark.parametrize(("script", "words"), PASSING)
def test_the_cache_forgets_what_failed_to_run_once(
    orin: Orin, cached: Path, script: dict[str, Any], words: str
) -> None:
    path = orin.write_onnx("fp16.onnx", "fp16")
    orin.script = Script(layers=ORIN_LAYERS % "Half", **script)
    reasons: list[str] = []
    assert prepare_model(path, progress=False, on_cpu=reasons.append) == path
    assert re.search(words, reasons[0])
    assert not re.search("does not support|use TensorRT", reasons[0])
    assert list(cached.iterdir()) == []
    orin.script = Script(layers=ORIN_LAYERS % "Half")  # memory is free again
    engine = prepare_model(path, progress=False, on_cpu=reasons.append)
    assert (engine.suffix, len(reasons)) == (".engine", 1)


def test_the_cache_remembers_a_gpu_that_rtx_does_not_support(orin: Orin, cached: Path) -> None:
    path = orin.write_onnx("fp16.onnx", "fp16")
    reasons: list[str] = []
    for _ in range(2):
        orin.script = Script(loads=False, says=[(Severity.ERROR, REFUSAL)])
        assert prepare_model(path, progress=False, on_cpu=reasons.append) == path
    assert orin.script.calls == []  # it was not built again
    assert reasons[0] == reasons[1]
    assert "TensorRT-RTX 1.7.1 builds an engine" in reasons[0]
    assert "does not support Orin (compute capability 8.7, CUDA 12.6)" in reasons[0]
    assert f"use TensorRT ({tensorrt_fix(JETSON)})" in reasons[0]
