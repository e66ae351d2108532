"""Engines are built whole or not at all: with TensorRT-RTX, which needs no GPU."""

import errno
import hashlib
import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ssd_edge.card import ONNX_METADATA_KEY, ModelCard
from ssd_edge.cli.main import main
from ssd_edge.errors import GateFailedError, MissingDependencyError, ModelFileError, SinkError, SsdEdgeError, UsageError
from ssd_edge.export.engine import build, trial
from ssd_edge.export.engine.build import BuildReport, build_engine
from ssd_edge.export.engine.trial import Trial
from ssd_edge.runtime.cuda.base import Gpu
from ssd_edge.runtime.cuda.errors import CudaError
from ssd_edge.runtime.tensorrt.engine_card import BatchSizes, LayerShare, check_fresh, read_engine_card
from ssd_edge.runtime.tensorrt.versions import TensorRT, load_tensorrt

SIZE = 16
CARD = ModelCard(
    arch="tiny",
    height=SIZE,
    width=SIZE,
    class_names=("a", "b"),
    category_ids=(1, 2),
    mean=(0.0,) * 3,
    std=(1.0,) * 3,
    score_threshold=0.1,
    nms_iou=0.5,
    candidates=10,
    detections=10,
)
ORIN = Gpu("Orin", "8.7", "12.6")
INT8 = '{"Layers": [{"Name": "conv", "LayerType": "gemm", "Inputs": [{"DataType": "Int8"}]}]}'
FLOAT = '{"Layers": [{"Name": "conv", "LayerType": "gemm", "Inputs": [{"DataType": "Float"}]}]}'


@pytest.fixture(autouse=True)
def rtx() -> TensorRT:
    """Where it is not installed, there is nothing to test."""
    pytest.importorskip("tensorrt_rtx_bindings")
    return load_tensorrt("rtx")


@pytest.fixture
def write_onnx(tmp_path: Path) -> Callable[..., Path]:
    """Write a model of one convolution an output; `half`: in float16; `classes`: of its scores."""

    def write(name: str = "m.onnx", *, half: bool = False, classes: int = 2, metadata: Any = None, **card: Any) -> Path:
        kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
        dtype = np.float16 if half else np.float32
        weights = np.random.default_rng(0).normal(0, 0.01, (4 + classes, 3, SIZE, SIZE)).astype(dtype)
        constants = {
            "to_boxes": weights[:4],
            "to_scores": weights[4:],
            "box_shape": np.array([-1, 1, 4]),
            "score_shape": np.array([-1, 1, classes]),
        }
        nodes = [
            helper.make_node("Cast", ["images"], ["pixels"], to=kind),
            helper.make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]),
        ]
        for output, kernel, shape in (("boxes", "to_boxes", "box_shape"), ("scores", "to_scores", "score_shape")):
            nodes += [
                helper.make_node("Conv", ["planes", kernel], [f"{output}_map"], name=f"conv_{output}"),
                helper.make_node("Reshape", [f"{output}_map", shape], [f"{output}_row"]),
                helper.make_node("Cast", [f"{output}_row"], [output], to=TensorProto.FLOAT),
            ]
        graph = helper.make_graph(
            nodes,
            "tiny",
            [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", SIZE, SIZE, 3])],
            [
                helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["batch", 1, 4]),
                helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 1, classes]),
            ],
            [numpy_helper.from_array(value, key) for key, value in constants.items()],
        )
        model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)])
        props = {ONNX_METADATA_KEY: replace(CARD, **card).to_json()} if metadata is None else metadata
        helper.set_model_props(model, props)
        onnx.save(model, tmp_path / name)
        return tmp_path / name

    return write


def built(onnx: Path, output: str = "m.engine", **options: Any) -> BuildReport:
    return build_engine(onnx, onnx.with_name(output), flavour="rtx", progress=False, **options)


def others(onnx: Path) -> list[str]:
    """Files beside the ONNX file."""
    return sorted(path.name for path in onnx.parent.iterdir() if path != onnx)


@pytest.mark.parametrize("batch", ["1", "4", "1,4,16"])
@pytest.mark.parametrize("half", [False, True])
def test_an_engine_and_its_card(write_onnx: Callable[..., Path], rtx: TensorRT, batch: str, half: bool) -> None:
    path = write_onnx(half=half, precision="fp16" if half else "fp32")
    report = built(path, batch=BatchSizes.parse(batch), workspace_bytes=1 << 28)
    engine = path.with_name("m.engine")
    card = read_engine_card(engine)
    plan = engine.read_bytes()
    assert others(path) == ["m.engine", "m.engine.json"]
    assert card == report.card
    assert (card.onnx_name, card.onnx_sha256) == ("m.onnx", hashlib.sha256(path.read_bytes()).hexdigest())
    assert (card.engine_bytes, card.engine_sha256) == (len(plan), hashlib.sha256(plan).hexdigest())
    assert (card.flavour, card.tensorrt_version) == ("rtx", rtx.version)
    assert (str(card.batch), card.workspace_bytes, card.dla) == (batch, 1 << 28, None)
    assert card.model.class_names == ("a", "b")
    check_fresh(engine, card, plan, flavour="rtx", version=rtx.version, gpu=ORIN)
    assert f"{len(plan) / 1e6:.1f} MB, {card.model.precision}, batch {batch}, rtx" in str(report)


def test_without_a_gpu_nothing_is_claimed(write_onnx: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "find_gpu", lambda: None)
    report = built(write_onnx(metadata=None, precision="int8"))
    card = report.card
    assert (card.gpu_name, card.compute_capability, card.cuda_version, card.layers) == (None, None, None, None)
    assert "not run, and its layers not inspected: there is no NVIDIA GPU" in str(report)


def test_the_calibration_of_the_file_is_kept(write_onnx: Callable[..., Path]) -> None:
    props = {ONNX_METADATA_KEY: CARD.to_json(), "ssd_edge_calibration": "0123abc"}
    assert built(write_onnx(metadata=props)).card.calibration == "0123abc"
    assert built(write_onnx()).card.calibration is None


def with_gpu(monkeypatch: pytest.MonkeyPatch, information: str | SsdEdgeError, times: dict[str, float]) -> None:
    """A GPU on which the engine runs, or does not."""

    def run(*_: Any) -> Trial:
        if isinstance(information, SsdEdgeError):
            raise information
        return Trial(information, times, 1.25)

    monkeypatch.setattr(build, "find_gpu", lambda: ORIN)
    monkeypatch.setattr(trial, "run_engine", run)


def test_on_a_gpu_the_layers_are_inspected(write_onnx: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpu(monkeypatch, INT8, {"conv": 2.0})
    report = built(write_onnx(precision="int8"))
    assert report.card.layers == {"int8": LayerShare(1, 1.0, 1.0)}
    assert (report.card.gpu_name, report.card.compute_capability) == ("Orin", "8.7")
    assert report.card.run_ms == 1.25
    assert "layers: 100% int8 (100% of the time)\nrun: 1.25 ms at batch 1 on this GPU" in str(report)
    with_gpu(monkeypatch, '{"Layers": ["conv"]}', {})
    assert built(write_onnx(precision="int8")).card.layers == {}


def test_an_engine_that_is_not_what_it_is_called_is_not_written(
    write_onnx: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gpu(monkeypatch, FLOAT, {})
    path = write_onnx(precision="int8")
    with pytest.raises(GateFailedError, match=r"m\.engine is not written: .*called int8.*1 fp32"):
        built(path)
    assert others(path) == []


def test_rtx_builds_for_other_gpus_than_this_one(
    write_onnx: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gpu(monkeypatch, SsdEdgeError("no memory"), {})
    report = built(write_onnx())
    assert (report.card.layers, report.card.run_ms) == (None, None)
    assert "Orin did not run it this time, but the engine is kept: no memory" in str(report)


def test_interrupted_half_way(write_onnx: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_onnx()
    path.with_name("m.engine").write_text("the older one")

    @contextmanager
    def interrupting_bar(*_: Any) -> Iterator[Callable[[float, str], None]]:
        sent: list[str] = []

        def advance(fraction: float, phase: str) -> None:
            if not sent:
                sent.append(phase)
                signal.raise_signal(signal.SIGINT)  # what Ctrl-C does

        yield advance

    monkeypatch.setattr(build, "progress_bar", interrupting_bar)
    with pytest.raises(KeyboardInterrupt):
        built(path)
    assert others(path) == ["m.engine"]
    assert path.with_name("m.engine").read_text() == "the older one"


def test_a_full_disk(write_onnx: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_onnx()
    path.with_name("m.engine").write_text("the older one")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(SinkError, match=r"cannot write .*m\.engine: No space left on device"):
        built(path)
    assert others(path) == ["m.engine"]
    assert path.with_name("m.engine").read_text() == "the older one"


def test_a_model_that_breaks_the_contract(write_onnx: Callable[..., Path]) -> None:
    path = write_onnx(classes=5)
    with pytest.raises(
        ModelFileError, match=r"scores FLOAT \[-1, 1, 5\]; expected .*scores FLOAT \[batch, anchors, 2\]"
    ):
        built(path)
    path = write_onnx(metadata={})
    with pytest.raises(ModelFileError, match=r"m\.onnx has no model card"):
        built(path)
    assert others(path) == []


def test_files_are_checked_before_tensorrt_opens_them(
    write_onnx: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_onnx()
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    monkeypatch.setattr(build, "parse_onnx", None)
    with pytest.raises(ModelFileError, match=r"m\.onnx: .*another file"):
        built(path)
    path.write_bytes(b"this is no protobuf")
    with pytest.raises(ModelFileError, match=r"m\.onnx"):
        built(path)
    with pytest.raises(ModelFileError, match=r"absent\.onnx"):
        built(path.with_name("absent.onnx"))


def test_outputs_that_cannot_be(write_onnx: Callable[..., Path], tmp_path: Path) -> None:
    path = write_onnx()
    (tmp_path / "folder.engine").mkdir()
    (tmp_path / "file").touch()
    for output, message in (("m.plan", "does not end in .engine"), ("folder.engine", "is a folder")):
        with pytest.raises(UsageError, match=message):
            built(path, output)
    with pytest.raises(UsageError, match=r"--timing-cache .* is the model itself"):
        built(path, timing_cache=path)
    with pytest.raises(SinkError, match="cannot write"):
        build_engine(path, tmp_path / "file" / "m.engine", flavour="rtx", progress=False)


def test_tensorrt_itself_needs_a_gpu(write_onnx: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def no_gpu() -> None:
        raise CudaError("there is no NVIDIA driver here")

    monkeypatch.setattr(build, "load_tensorrt", lambda _: TensorRT("tensorrt", "10.3.0", ModuleType("tensorrt")))
    monkeypatch.setattr(build, "read_gpu", no_gpu)
    with pytest.raises(
        SsdEdgeError, match=r"builds an engine on the GPU it is for: there is no NVIDIA driver here.*--tensorrt rtx"
    ):
        built(write_onnx())

    def absent() -> None:
        raise MissingDependencyError("no cuda-core", extra="cuda13")

    monkeypatch.setattr(build, "read_gpu", absent)
    with pytest.raises(MissingDependencyError):
        built(write_onnx())


def test_the_command(write_onnx: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    path = write_onnx()
    output = path.with_name("out") / "m.engine"
    options = ["--batch", "2", "--workspace", "256M", "--tensorrt", "rtx"]
    assert main(["build", str(path), "-o", str(output), *options]) == 0
    assert f"{output}: " in capsys.readouterr().out
    card = json.loads(output.with_name("m.engine.json").read_text())
    assert card["batch"] == {"smallest": 2, "optimum": 2, "largest": 2}
    assert card["workspace_bytes"] == 256 * 1024 * 1024
    assert main(["build", str(path), "-o", str(output), "--batch", "4,1"]) == 2
    assert "batch sizes 4, 1, 1" in capsys.readouterr().err
