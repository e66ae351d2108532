"""Engines run: order of calls, shapes, memory and errors with fakes; against ONNX Runtime on a GPU."""

import hashlib
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_tensorrt import CARD, Script, Severity, fake_cuda, fake_tensorrt

from ssd_edge.errors import MissingDependencyError, ModelFileError, SsdEdgeError, UsageError
from ssd_edge.runtime import backend_tensorrt, cuda_runtime
from ssd_edge.runtime.backend_tensorrt import EngineSession, TensorRTDetector
from ssd_edge.runtime.cuda_runtime import CudaError, CudaMemoryError, Gpu, find_gpu
from ssd_edge.runtime.detector import open_detector
from ssd_edge.runtime.engine_card import BatchSizes, EngineCard, engine_card_path

PLAN = b"a plan"
RANGE = (1, 2, 4)
FIXED = (4, 4, 4)


def session(script: Script) -> EngineSession:
    return EngineSession(fake_tensorrt(script), PLAN, CARD, cuda=fake_cuda(script), source="m.engine")


def images_of(*first_pixels: int) -> np.ndarray:
    """uint8 [batch, 32, 32, 3] whose first pixel the fake engine gives back as scores."""
    images = np.full((len(first_pixels), 32, 32, 3), 9, np.uint8)
    images[:, 0, 0, 0] = first_pixels
    return images


def runs(script: Script) -> list[int]:
    """Batch of each run."""
    return [call[2][0] for call in script.calls if call[0] == "set_input_shape"]


def test_calls_of_one_run_come_in_order() -> None:
    script = Script(batch=RANGE)
    with session(script) as opened:
        assert [call for call in script.calls if call[0] == "malloc"] == [
            ("malloc", 4 * 32 * 32 * 3),
            ("malloc", 4 * 4 * 2 * 4),
            ("malloc", 4 * 4 * 2 * 3),
        ]
        script.calls.clear()
        boxes, scores = opened.run(images_of(255, 51))
    assert script.calls[:6] == [
        ("set_input_shape", "images", (2, 32, 32, 3)),
        ("to_device", 2 * 32 * 32 * 3, 77),
        ("execute", 77),
        ("to_host", 4 * 2 * 2 * 4, 77),
        ("to_host", 4 * 2 * 2 * 3, 77),
        ("synchronise", 77),
    ]
    assert boxes.tolist() == [[[0, 0.125, 0.25, 0.375], [0.5, 0.625, 0.75, 0.875]]] * 2
    assert scores.shape == (2, 2, 3)
    assert scores[:, 0, 0].tolist() == pytest.approx([1, 0.2])


def test_images_need_not_lie_in_one_piece() -> None:
    with session(Script(batch=RANGE)) as opened:
        _, scores = opened.run(images_of(255, 0, 51)[::2])
    assert scores[:, 0, 0].tolist() == pytest.approx([1, 0.2])


def test_closing_frees_everything_once() -> None:
    script = Script()
    opened = session(script)
    assert len(script.memory) == 3
    opened.close()
    opened.close()
    assert not script.memory
    assert script.calls.count(("destroy", 77)) == 1


@pytest.mark.parametrize("mallocs", [0, 1, 2])
def test_no_memory_for_the_buffers(mallocs: int) -> None:
    script = Script(mallocs=mallocs)
    with pytest.raises(CudaMemoryError, match=r"out of GPU memory \(cudaMalloc: .*as the driver words it.*--batch"):
        session(script)
    assert not script.memory
    assert script.calls[-1] == ("destroy", 77)


def test_no_memory_for_the_context() -> None:
    script = Script(has_context=False, says=[(Severity.ERROR, "Error Code 2: OutOfMemory")])
    with pytest.raises(SsdEdgeError, match=r"m\.engine: .* cannot get the GPU memory .*OutOfMemory"):
        session(script)
    assert not script.memory


def test_a_plan_that_does_not_load() -> None:
    script = Script(loads=False, says=[(Severity.ERROR, "Version tag does not match")])
    with pytest.raises(ModelFileError, match="Version tag does not match"):
        session(script)
    assert ("stream",) not in script.calls


def test_a_run_that_fails_says_why() -> None:
    script = Script(runs=False, says=[(Severity.ERROR, "Error Code 1: Cask (no launch)")])
    opened = session(script)
    with pytest.raises(SsdEdgeError, match=r"does not run: .*Cask"):
        opened.run(images_of(1))
    with pytest.raises(SsdEdgeError, match=r"refuses images of shape \[2, 32, 32, 3\]"):
        opened.run(images_of(1, 2))
    opened.close()
    assert not script.memory


@pytest.mark.parametrize("changes", [{"classes": 2}, {"size": 64}])
def test_engines_that_break_the_contract(changes: dict[str, int]) -> None:
    script = Script(**changes)
    with pytest.raises(ModelFileError, match=r"m\.engine has .*expected images UINT8 \[batch, 32, 32, 3\].*scores"):
        session(script)
    assert not script.memory


def test_batches_are_split_and_padded() -> None:
    script = Script(batch=RANGE)
    with TensorRTDetector(session(script), CARD) as detector:
        boxes, scores = detector.infer(images_of(*range(0, 180, 20)))
    assert runs(script) == [4, 4, 1]
    assert boxes.shape == (9, 2, 4)
    assert (255 * scores[:, 1, 2]).round().tolist() == list(range(0, 180, 20))
    script = Script(batch=FIXED)
    with TensorRTDetector(session(script), CARD) as detector:
        boxes, scores = detector.infer(images_of(50, 100, 150, 200, 250))
    assert runs(script) == [4, 4]
    assert boxes.shape == (5, 2, 4)
    assert (255 * scores[:, 0, 0]).round().tolist() == [50, 100, 150, 200, 250]


def test_a_wrong_threshold_frees_the_session() -> None:
    script = Script()
    with pytest.raises(UsageError, match="threshold 2"):
        TensorRTDetector(session(script), CARD, score_threshold=2)
    assert not script.memory


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Script:
    """A Jetson Orin with TensorRT 10.3."""
    script = Script(batch=FIXED)

    def load(flavour: str | None = None) -> Any:
        if flavour == "rtx":
            raise MissingDependencyError("no TensorRT-RTX", extra="rtx")
        return fake_tensorrt(script)

    monkeypatch.setattr(backend_tensorrt, "load_tensorrt", load)
    monkeypatch.setattr(backend_tensorrt, "load_cudart", lambda: fake_cuda(script))
    return script


@pytest.fixture
def write_engine(tmp_path: Path) -> Callable[..., Path]:
    """An engine with a card that may differ from what the machine has."""

    def write(**changes: Any) -> Path:
        card = EngineCard(
            model=CARD,
            onnx_name="m.onnx",
            onnx_sha256="0" * 64,
            engine_sha256=hashlib.sha256(PLAN).hexdigest(),
            engine_bytes=len(PLAN),
            flavour="tensorrt",
            tensorrt_version="10.3.0",
            cuda_version="12.6",
            gpu_name="Orin",
            compute_capability="8.7",
            batch=BatchSizes(*FIXED),
        )
        path = tmp_path / "m.engine"
        path.write_bytes(PLAN)
        engine_card_path(path).write_text(replace(card, **changes).to_json())
        return path

    return write


def test_open_detector_runs_an_engine(machine: Script, write_engine: Callable[..., Path]) -> None:
    white, black = np.full((64, 128, 3), 255, np.uint8), np.zeros((8, 8, 3), np.uint8)
    with open_detector(write_engine()) as detector:
        found = detector([white, black])
        assert detector.card == CARD
    assert [len(item) for item in found] == [6, 0]  # 2 anchors of 3 classes
    assert sorted(set(found[0].labels.tolist())) == [0, 1, 2]
    assert found[0].boxes_xyxy.tolist()[0] == [0, 8, 32, 24]
    assert machine.calls[0] == ("deserialise", PLAN, False)
    assert not machine.memory
    with pytest.raises(SsdEdgeError, match="closed"):
        detector([white])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine_bytes": 7}, "has 6 bytes, but its card says 7"),
        ({"engine_sha256": "0" * 64}, "SHA-256 differs"),
        ({"tensorrt_version": "10.16.2"}, "built by tensorrt 10.16.2 and this machine has tensorrt 10.3.0"),
        ({"flavour": "rtx", "tensorrt_version": "1.7.1"}, "built by rtx 1.7.1 and this machine has tensorrt 10.3.0"),
        ({"gpu_name": "Xavier", "compute_capability": "7.2"}, "built on Xavier"),
    ],
)
def test_stale_engines_are_not_loaded(
    machine: Script, write_engine: Callable[..., Path], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelFileError, match=rf"{message}.*ssd-edge build m\.onnx -o \S+m\.engine --batch 4"):
        open_detector(write_engine(**changes))
    assert not machine.calls


def test_no_gpu(machine: Script, write_engine: Callable[..., Path]) -> None:
    machine.driver = False
    with pytest.raises(SsdEdgeError, match=r"no driver or GPU here; open the \.onnx file"):
        open_detector(write_engine())
    with pytest.raises(ModelFileError, match="SHA-256 differs"):  # which a GPU would not mend
        open_detector(write_engine(engine_sha256="0" * 64))


def test_engines_run_on_the_first_gpu(machine: Script, write_engine: Callable[..., Path]) -> None:
    for device in ("cpu", "cuda:1"):
        with pytest.raises(UsageError, match=f"--device {device}: engines run on the first GPU.*CUDA_VISIBLE_DEVICES"):
            open_detector(write_engine(), device=device)
    open_detector(write_engine(), device="cuda").close()


def test_no_cuda_bindings(machine: Script, write_engine: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_tensorrt, "load_cudart", cuda_runtime.load_cudart)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(MissingDependencyError, match=r"cuda-bindings.*cuda12.*\[cuda13\]"):
        open_detector(write_engine())
    assert find_gpu() is None


def test_the_gpu_and_calls_that_fail() -> None:
    cuda = fake_cuda(Script())
    assert cuda.gpu() == Gpu("Orin", "8.7", "12.6")
    assert str(cuda.gpu()) == "Orin (compute capability 8.7, CUDA 12.6)"
    assert fake_cuda(Script(driver=False)).gpu() is None
    with pytest.raises(CudaError, match=r"cudaGetDeviceCount failed: cudaErrorInsufficientDriver.*\[cuda12\]"):
        fake_cuda(Script(driver=False)).call("cudaGetDeviceCount")


@pytest.mark.gpu
@pytest.mark.parametrize("batch", [BatchSizes(1, 2, 4), BatchSizes(3, 3, 3)])
def test_a_real_engine_gives_what_onnx_runtime_gives(model_path: Path, tmp_path: Path, batch: BatchSizes) -> None:
    from ssd_edge.export.build import build_engine

    if find_gpu() is None:
        pytest.skip("no NVIDIA GPU")
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    report = build_engine(model_path, tmp_path / "m.engine", batch=batch, progress=False)
    assert report.not_run is None
    assert report.card.layers
    with open_detector(model_path) as reference, open_detector(tmp_path / "m.engine") as engine:
        for count in (1, 2, 5):
            expected, got = reference.infer(images[:count]), engine.infer(images[:count])
            for one, other in zip(expected, got, strict=True):
                np.testing.assert_allclose(other, one, atol=1e-3)  # TF32
