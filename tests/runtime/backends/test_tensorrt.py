"""Engines run: order of calls, shapes, memory and errors with fakes; against ONNX Runtime on a GPU."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssd_edge.errors import MissingDependencyError, ModelFileError, SsdEdgeError, UsageError
from ssd_edge.export.engine import trial
from ssd_edge.runtime.backends import tensorrt as backend_tensorrt
from ssd_edge.runtime.backends.tensorrt import TensorRTDetector, TensorRTEngine
from ssd_edge.runtime.cuda.base import Gpu
from ssd_edge.runtime.cuda.errors import CudaError, CudaMemoryError
from ssd_edge.runtime.cuda.find import find_gpu
from ssd_edge.runtime.detector import open_detector
from ssd_edge.runtime.tensorrt import log
from ssd_edge.runtime.tensorrt.engine_card import BatchSizes, EngineCard, engine_card_path
from ssd_edge.runtime.tensorrt.log import UnsupportedGpuError
from tests.fakes.host_cuda import HostCuda
from tests.fakes.tensorrt import Severity, fake_tensorrt
from tests.fakes.tensorrt_script import CARD, FakeCuda, Script

PLAN = b"a plan"
RANGE = (1, 2, 4)
FIXED = (4, 4, 4)


def engine_of(script: Script, **options: Any) -> TensorRTEngine:
    return TensorRTEngine(fake_tensorrt(script), PLAN, CARD, cuda=FakeCuda(script), source="m.engine", **options)


def allocated(engine: TensorRTEngine) -> int:
    assert isinstance(engine.cuda, HostCuda)
    return engine.cuda.allocated


def images_of(*first_pixels: int) -> np.ndarray:
    """uint8 [batch, 32, 32, 3] whose first pixel the fake engine gives back as scores."""
    images = np.full((len(first_pixels), 32, 32, 3), 9, np.uint8)
    images[:, 0, 0, 0] = first_pixels
    return images


def runs(script: Script) -> list[int]:
    """Batch of each run."""
    return [call[1] for call in script.calls if call[0] == "execute"]


def test_a_run() -> None:
    with engine_of(Script(batch=RANGE)) as engine:
        assert (engine.batch, engine.size_hw, engine.anchors, engine.classes) == ((1, 4), (32, 32), 2, 3)
        boxes, scores = engine.infer(images_of(255, 51))
    assert boxes.tolist() == [[[0, 0.125, 0.25, 0.375], [0.5, 0.625, 0.75, 0.875]]] * 2
    assert scores.shape == (2, 2, 3)
    assert scores[:, 0, 0].tolist() == pytest.approx([1, 0.2])


def test_a_batch_size_has_a_context_of_its_own() -> None:
    """As its captured graphs are good only while nobody changes its shapes."""
    script = Script(batch=RANGE)
    with engine_of(script) as engine:
        assert ("context", "user managed") in script.calls  # for the smallest, so that what fails fails at once
        for count in (1, 3, 1, 3):
            engine.infer(images_of(*range(count)))
    assert [call[2][0] for call in script.calls if call[0] == "set_input_shape"] == [1, 3]
    assert runs(script) == [1, 3, 1, 3]


def test_closing_frees_everything_once() -> None:
    engine = engine_of(Script())
    assert allocated(engine) == 32 * 32 * 3 + 4 * 2 * 4 + 4 * 2 * 3 + 1000
    engine.close()
    engine.close()
    assert allocated(engine) == 0


def test_rtx_is_let_go_of_from_the_contexts_down() -> None:
    """Its options do not keep their cache, and contexts use both."""
    script = Script(batch=RANGE)
    rtx = fake_tensorrt(script, "1.7.1", "rtx")
    with TensorRTEngine(rtx, PLAN, CARD, cuda=FakeCuda(script), source="m.engine") as engine:
        engine.infer(images_of(1, 2))
        assert script.gone == []
    assert script.gone == ["context", "context", "config", "cache", "engine"]


def test_a_context_that_fails_goes_before_what_it_was_made_with() -> None:
    script = Script(batch=(2, 1, 1))  # refuses every shape
    rtx = fake_tensorrt(script, "1.7.1", "rtx")
    with pytest.raises(SsdEdgeError, match="refuses images"):
        TensorRTEngine(rtx, PLAN, CARD, cuda=FakeCuda(script), source="m.engine")
    assert script.gone == ["context", "config", "cache", "engine"]


def test_the_run_of_a_build_leaves_no_context(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(batch=RANGE)
    monkeypatch.setattr(trial, "open_cuda", lambda: FakeCuda(script))
    rtx = fake_tensorrt(script, "1.7.1", "rtx")
    candidate = trial.Candidate(rtx, memoryview(PLAN), CARD, BatchSizes(*RANGE), None, "m.engine")
    seen = trial.run_engine(candidate)
    assert (seen.information, seen.layers_ms) == ('{"Layers": []}', {})
    assert seen.run_ms > 0
    assert script.gone == ["context", "context", "config", "cache", "engine", "GPU"]


@pytest.mark.parametrize("mallocs", [0, 1, 2, 3])
def test_no_memory(mallocs: int) -> None:
    script = Script(mallocs=mallocs)
    cuda = FakeCuda(script)
    with pytest.raises(CudaMemoryError):
        TensorRTEngine(fake_tensorrt(script), PLAN, CARD, cuda=cuda, source="m.engine")
    assert cuda.allocated == 0


def test_no_context() -> None:
    script = Script(has_context=False, says=[(Severity.ERROR, "Error Code 2: OutOfMemory")])
    with pytest.raises(SsdEdgeError, match=r"m\.engine: .* cannot be made ready to run: .*OutOfMemory"):
        engine_of(script)


def test_rtx_refuses_the_gpu_when_it_compiles_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "find_gpu", lambda: Gpu("NVIDIA H200", "9.0", "13.0"))
    script = Script(has_context=False, says=[(Severity.ERROR, "The engine cannot run on this GPU, which has 9.0")])
    rtx = fake_tensorrt(script, "1.7.1", "rtx")
    with pytest.raises(UnsupportedGpuError, match=r"TensorRT-RTX 1\.7\.1 does not support NVIDIA H200 .*use TensorRT"):
        TensorRTEngine(rtx, PLAN, CARD, cuda=FakeCuda(script), source="m.engine")
    assert script.gone == ["config", "cache", "engine"]


def test_a_dla_core_is_told_to_what_loads_the_engine(machine: Script, write_engine: Callable[..., Path]) -> None:
    open_detector(write_engine(dla=1)).close()
    open_detector(write_engine()).close()
    assert [call[1] for call in machine.calls if call[0] == "runs on DLA"] == [1]


def test_a_plan_that_does_not_load() -> None:
    script = Script(loads=False, says=[(Severity.ERROR, "Version tag does not match")])
    with pytest.raises(ModelFileError, match="Version tag does not match"):
        engine_of(script)
    assert not script.streams


def test_a_run_that_fails_says_why() -> None:
    script = Script(runs=False, says=[(Severity.ERROR, "Error Code 1: Cask (no launch)")])
    with engine_of(script) as engine:
        with pytest.raises(SsdEdgeError, match=r"does not run: .*Cask"):
            engine.infer(images_of(1))
        with pytest.raises(SsdEdgeError, match=r"refuses images of shape \[2, 32, 32, 3\]"):
            engine.enqueue(2)


def test_an_error_quotes_its_own_call_alone() -> None:
    script = Script(says=[(Severity.ERROR, "said when it was loaded")])
    with engine_of(script) as engine:
        script.says, script.runs = [(Severity.ERROR, "said when it ran")], False
        with pytest.raises(SsdEdgeError, match=r"^m\.engine: the engine does not run: said when it ran; close"):
            engine.infer(images_of(1))


def test_rtx_keeps_the_kernels_that_it_compiles(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "m.kernels"

    def opened(script: Script) -> None:
        rtx = fake_tensorrt(script, "1.7.1", "rtx")
        with TensorRTEngine(rtx, PLAN, CARD, cuda=FakeCuda(script), source="m.engine", kernels=file) as engine:
            engine.infer(images_of(1, 2))

    script = Script(batch=RANGE)
    opened(script)
    assert file.read_bytes() == b"kk"  # of two batch sizes
    assert ("context", "user managed") in script.calls
    assert ("specialises", "eager") in script.calls
    opened(Script(batch=RANGE))
    assert file.read_bytes() == b"kkkk"
    opened(Script(batch=RANGE, takes_kernels=False))  # of another GPU
    assert file.read_bytes() == b"kk"
    file.unlink()
    file.mkdir()
    opened(Script(batch=RANGE))  # costs no more than time


def test_rtx_captures_graphs_itself_where_ours_cannot_hold_it(caplog: pytest.LogCaptureFixture) -> None:
    frame = np.full((32, 32, 3), 255, np.uint8)
    for capturable in (True, False):
        caplog.clear()
        script = Script(capturable=capturable)
        rtx = fake_tensorrt(script, "1.7.1", "rtx")
        engine = TensorRTEngine(rtx, PLAN, CARD, cuda=FakeCuda(script), source="m.engine")
        with TensorRTDetector(engine, CARD, slots=1) as detector:
            assert [len(detector([frame])[0]) for _ in range(4)] == [6] * 4
        own = [call[1] for call in script.calls if call[0] == "own graphs"]
        assert own == ([""] if capturable else ["", "whole graph"])
        assert len(runs(script)) == (2 if capturable else 4)  # replays are not asked of TensorRT
        assert (
            [record.message for record in caplog.records] == []
            if capturable
            else [
                "the detector runs without a CUDA graph: m.engine: TensorRT-RTX 1.7.1 cannot be captured here, "
                "but captures itself"
            ]
        )


@pytest.mark.parametrize("changes", [{"classes": 2}, {"size": 64}])
def test_engines_that_break_the_contract(changes: dict[str, Any]) -> None:
    script = Script(**changes)
    with pytest.raises(ModelFileError, match=r"m\.engine has .*expected images UINT8 \[batch, 32, 32, 3\].*scores"):
        engine_of(script)


def test_batches_are_split_and_padded() -> None:
    script = Script(batch=RANGE)
    with TensorRTDetector(engine_of(script), CARD) as detector:
        boxes, scores = detector.infer(images_of(*range(0, 180, 20)))
    assert runs(script) == [4, 4, 1]
    assert boxes.shape == (9, 2, 4)
    assert (255 * scores[:, 1, 2]).round().tolist() == list(range(0, 180, 20))
    script = Script(batch=FIXED)
    with TensorRTDetector(engine_of(script), CARD) as detector:
        boxes, scores = detector.infer(images_of(50, 100, 150, 200, 250))
    assert runs(script) == [4, 4]
    assert boxes.shape == (5, 2, 4)
    assert (255 * scores[:, 0, 0]).round().tolist() == [50, 100, 150, 200, 250]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Script:
    """A Jetson Orin with TensorRT 10.3."""
    script = Script(batch=FIXED)
    script.cuda = FakeCuda(script)

    def load(flavour: str | None = None) -> Any:
        if flavour == "rtx":
            raise MissingDependencyError("no TensorRT-RTX", extra="rtx")
        return fake_tensorrt(script)

    monkeypatch.setattr(backend_tensorrt, "load_tensorrt", load)
    monkeypatch.setattr(backend_tensorrt, "find_gpu", lambda: Gpu("Orin", "8.7", "12.6"))
    monkeypatch.setattr(backend_tensorrt, "open_cuda", lambda: script.cuda)
    monkeypatch.setenv("SSD_EDGE_CACHE", str(tmp_path / "cache"))
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
    assert (machine.cuda.allocated, machine.cuda.closed) == (0, 1)
    with pytest.raises(SsdEdgeError, match="closed"):
        detector([white])


def test_what_fails_to_open_leaves_nothing_on_the_gpu(machine: Script, write_engine: Callable[..., Path]) -> None:
    with pytest.raises(UsageError, match="threshold 2"):
        open_detector(write_engine(), score_threshold=2)
    assert (machine.cuda.allocated, machine.cuda.closed) == (0, 1)
    machine.loads = False
    with pytest.raises(ModelFileError, match="cannot load it"):
        open_detector(write_engine())
    assert (machine.cuda.allocated, machine.cuda.closed) == (0, 2)


def test_without_overlap_there_is_one_slot(machine: Script, write_engine: Callable[..., Path]) -> None:
    for overlap, slots in ((True, 2), (False, 1)):
        with open_detector(write_engine(), overlap=overlap) as detector:
            assert detector.slots == slots


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


def test_no_gpu(machine: Script, write_engine: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver() -> None:
        raise CudaError("there is no NVIDIA driver here")

    monkeypatch.setattr(backend_tensorrt, "find_gpu", lambda: None)
    monkeypatch.setattr(backend_tensorrt, "open_cuda", no_driver)
    with pytest.raises(CudaError, match="there is no NVIDIA driver here"):
        open_detector(write_engine())
    with pytest.raises(ModelFileError, match="SHA-256 differs"):  # which a GPU would not mend
        open_detector(write_engine(engine_sha256="0" * 64))


def test_engines_run_on_the_first_gpu(machine: Script, write_engine: Callable[..., Path]) -> None:
    for device in ("cpu", "cuda:1"):
        with pytest.raises(UsageError, match=f"--device {device}: engines run on the first GPU.*CUDA_VISIBLE_DEVICES"):
            open_detector(write_engine(), device=device)
    open_detector(write_engine(), device="cuda").close()


@pytest.mark.gpu
@pytest.mark.parametrize("batch", [BatchSizes(1, 2, 4), BatchSizes(3, 3, 3)])
def test_a_real_engine_gives_what_onnx_runtime_gives(model_path: Path, tmp_path: Path, batch: BatchSizes) -> None:
    from ssd_edge.export.engine.build import build_engine

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
