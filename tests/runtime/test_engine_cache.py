"""Which file is opened in place of an `.onnx`, and which engines are kept."""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_tensorrt import CARD, Script, fake_tensorrt

from ssd_edge.errors import GateFailedError, MissingDependencyError, ModelFileError, SsdEdgeError, UsageError
from ssd_edge.export import build
from ssd_edge.export.build import BuildReport
from ssd_edge.runtime import engine_cache
from ssd_edge.runtime.cuda import CudaError, Gpu
from ssd_edge.runtime.engine_cache import engine_cache_folder, prepare_model
from ssd_edge.runtime.engine_card import BatchSizes, EngineCard, engine_card_path


@pytest.fixture
def onnx(tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"an onnx file")
    return path


class Machine:
    """A Jetson Orin with TensorRT 10.3, whose builds are counted."""

    def __init__(self) -> None:
        self.script = Script()
        self.gpu: Gpu | None = Gpu("Orin", "8.7", "12.6", integrated=True)
        self.version = "10.3.0"
        self.builds: list[str] = []
        self.error: SsdEdgeError | None = None
        self.layers: dict[str, Any] | None = {}

    def read_gpu(self) -> Gpu:
        if self.gpu is None:
            raise CudaError("there is no NVIDIA driver here")
        return self.gpu

    def build_engine(self, onnx: Path, output: Path, **options: Any) -> BuildReport:
        self.builds.append(str(options["batch"]))
        if self.error:
            raise self.error
        plan = b"engine %d" % len(self.builds)
        card = EngineCard(
            model=CARD,
            onnx_name=onnx.name,
            onnx_sha256=hashlib.sha256(onnx.read_bytes()).hexdigest(),
            engine_sha256=hashlib.sha256(plan).hexdigest(),
            engine_bytes=len(plan),
            flavour="tensorrt",
            tensorrt_version=self.version,
            cuda_version="12.6",
            gpu_name="Orin",
            compute_capability="8.7",
            batch=options["batch"],
            layers=self.layers,
        )
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_bytes(plan)
        engine_card_path(output).write_text(card.to_json())
        return BuildReport(output, card, 1.0, None)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    machine = Machine()
    monkeypatch.setenv("SSD_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(engine_cache, "_may_have_gpu", lambda: True)
    monkeypatch.setattr(engine_cache, "_may_have_tensorrt", lambda: True)
    monkeypatch.setattr(engine_cache, "read_gpu", machine.read_gpu)
    monkeypatch.setattr(engine_cache, "load_tensorrt", lambda: fake_tensorrt(machine.script, machine.version))
    monkeypatch.setattr(build, "build_engine", machine.build_engine)
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


def without_gpu(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.gpu = None


def without_cuda_core(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def load() -> None:
        raise MissingDependencyError("no cuda-core", extra="cuda13")

    monkeypatch.setattr(engine_cache, "read_gpu", load)


def without_tensorrt(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def load() -> None:
        raise MissingDependencyError("no TensorRT", extra="rtx")

    monkeypatch.setattr(engine_cache, "load_tensorrt", load)


@pytest.mark.parametrize("lack", [without_gpu, without_cuda_core, without_tensorrt])
def test_without_what_it_takes_onnx_runtime_runs_in_silence(
    machine: Machine,
    onnx: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    lack: Callable[..., None],
) -> None:
    lack(machine, monkeypatch)
    with caplog.at_level(logging.INFO):
        assert prepare_model(onnx) == onnx
    assert caplog.messages == []
    with pytest.raises(SsdEdgeError, match=r"no NVIDIA driver|cuda-core|TensorRT"):
        prepare_model(onnx, backend="tensorrt")


def test_nothing_is_imported_where_no_tensorrt_is_installed(
    machine: Machine, onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_cache, "_may_have_tensorrt", lambda: False)
    monkeypatch.setattr(engine_cache, "read_gpu", None)
    assert prepare_model(onnx) == onnx


def test_a_build_that_fails_is_a_warning_unless_asked_for(
    machine: Machine, onnx: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine.error = GateFailedError("no layer in int8")
    assert prepare_model(onnx) == onnx
    assert "runs on the CPU, as no engine could be made of it: no layer in int8" in caplog.messages[-1]
    with pytest.raises(GateFailedError):
        prepare_model(onnx, backend="tensorrt")
    machine.error = ModelFileError("external data")  # which ONNX Runtime is to be spared too
    with pytest.raises(ModelFileError):
        prepare_model(onnx)


def test_an_engine_that_did_not_run_when_it_was_built_is_not_tried_again(
    machine: Machine, onnx: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine.layers = None
    assert prepare_model(onnx) == onnx
    assert prepare_model(onnx) == onnx
    assert machine.builds == ["1"]
    assert "does not run on Orin" in caplog.messages[-1]
    with pytest.raises(SsdEdgeError, match=r"does not run on Orin.*delete"):
        prepare_model(onnx, backend="tensorrt")
