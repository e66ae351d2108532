"""Everything around the network on a GPU, and whole detectors, against the processor's: `pytest -m gpu`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu.cases import NmsCase, found_by, hard_cases, ssd300_case, uploaded
from benchmarks.gpu.models import synthetic_frame
from ssd_edge.bundled import bundled_model
from ssd_edge.errors import MissingDependencyError
from ssd_edge.runtime.backends import base
from ssd_edge.runtime.backends.base import Detector
from ssd_edge.runtime.backends.gpu_detector import GpuDetector
from ssd_edge.runtime.cuda.base import Cuda
from ssd_edge.runtime.cuda.find import find_gpu, open_cuda
from ssd_edge.runtime.cuda.kernels import KERNEL_SOURCE, KERNELS
from ssd_edge.runtime.cuda.preprocess import preprocess_bgr
from ssd_edge.runtime.detector import open_detector
from ssd_edge.runtime.preprocess import preprocess
from tests.fakes.detour_engine import DetourEngine
from tests.runtime.backends.gpu_runs import random_frames
from tests.runtime.equal_detections import assert_all_equal

pytestmark = pytest.mark.gpu


@pytest.fixture
def cuda() -> Iterator[Cuda]:
    if find_gpu() is None:
        pytest.skip("no NVIDIA GPU")
    with open_cuda() as cuda:
        yield cuda


def preprocess_on_gpu(cuda: Cuda, frame: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """uint8 [*size_hw, 3] RGB."""
    result = np.empty((*size_hw, 3), np.uint8)
    kernels = cuda.module(KERNEL_SOURCE, KERNELS)
    with ExitStack() as stack:
        stream = stack.enter_context(cuda.stream())
        source = uploaded(stack, cuda, stream, frame)
        out = stack.enter_context(cuda.memory(result.nbytes)).address
        preprocess_bgr(stream, kernels, source, 3 * frame.shape[1], frame.shape[:2], out, size_hw)
        stream.copy(result.ctypes.data, out, result.nbytes)
        stream.synchronize()
    return result


@pytest.mark.parametrize(
    ("frame_hw", "size_hw"),
    [
        ((1080, 1920), (300, 300)),
        ((480, 640), (320, 320)),
        ((1, 1), (300, 300)),
        ((7, 333), (32, 64)),
        ((300, 300),) * 2,
    ],
)
def test_preprocess(frame_hw: tuple[int, int], size_hw: tuple[int, int], cuda: Cuda) -> None:
    """Within a level: OpenCV rounds otherwise on other processors."""
    frame = np.random.default_rng(0).integers(0, 256, (*frame_hw, 3), np.uint8)
    result, expected = preprocess_on_gpu(cuda, frame, size_hw), preprocess(frame, size_hw)
    np.testing.assert_allclose(result.astype(int), expected, rtol=0, atol=1)


def check_nms(cuda: Cuda, case: NmsCase) -> None:
    """Three times: it is to be deterministic."""
    expected = case.expected()
    for found in found_by(cuda, case, repeat=3):
        assert_all_equal(found, expected)


@pytest.mark.parametrize("threshold", [0.001, 0.01, 0.4])
def test_nms_of_the_bundled_model(threshold: float, cuda: Cuda) -> None:
    with open_detector(bundled_model()) as detector:
        images = np.random.default_rng(0).integers(0, 256, (3, detector.card.height, detector.card.width, 3), np.uint8)
        boxes, scores = detector.infer(images // 4 * 3)
    check_nms(cuda, NmsCase("the bundled model", boxes, scores, score_threshold=threshold))


def test_nms_of_ssd300s_size(cuda: Cuda) -> None:
    check_nms(cuda, ssd300_case(2))


@pytest.mark.parametrize("case", hard_cases(), ids=lambda case: case.name)
def test_nms_of_hard_cases(case: NmsCase, cuda: Cuda) -> None:
    check_nms(cuda, case)


@pytest.mark.parametrize("slots", [1, 2])
def test_the_pipeline_around_the_processors_network(
    slots: int, cuda: Cuda, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def preprocess_alike(frame: np.ndarray, size_hw: tuple[int, int], out: np.ndarray) -> None:
        out[:] = preprocess_on_gpu(cuda, frame, size_hw)

    monkeypatch.setattr(base, "preprocess", preprocess_alike)
    frames = random_frames((480, 640), (100, 33), (480, 640), (1080, 1920), (1, 1))
    with open_detector(bundled_model(), score_threshold=0.001) as cpu:
        expected = cpu(frames)
        engine = DetourEngine(cpu, open_cuda())
        with GpuDetector(engine, cpu.card, score_threshold=0.001, slots=slots) as detector:
            for _ in range(3):
                assert_all_equal(detector(frames), expected)
            for frame in frames:
                detector.submit([frame.copy()])
            assert_all_equal([detector.collect()[0] for _ in frames], expected)
    assert caplog.text.count("without a CUDA graph: it waits for the processor") == 1


def open_torch(checkpoint: Path, **options: Any) -> GpuDetector:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    detector = open_detector(checkpoint, device="cuda", score_threshold=0.01, **options)
    assert isinstance(detector, GpuDetector)
    return detector


def open_tensorrt(onnx: Path, **options: Any) -> GpuDetector:
    from ssd_edge.export.engine.build import build_engine
    from ssd_edge.runtime.tensorrt.engine_card import BatchSizes

    engine = onnx.with_suffix(".engine")
    if not engine.is_file():
        try:
            report = build_engine(onnx, engine, batch=BatchSizes(1, 2, 4), progress=False)
        except MissingDependencyError as error:
            pytest.skip(str(error))
        if report.not_run is not None:
            engine.unlink()
            pytest.skip(report.not_run)
    detector = open_detector(engine, score_threshold=0.01, **options)
    assert isinstance(detector, GpuDetector)
    return detector


@pytest.fixture
def model(request: pytest.FixtureRequest, cuda: Cuda) -> Any:
    """The tiny model, made only where there is a GPU."""
    return request.getfixturevalue("tiny")


@pytest.fixture(params=["torch", "tensorrt"])
def open_gpu(request: pytest.FixtureRequest, model: Any) -> Callable[..., GpuDetector]:
    """Open the tiny model on the GPU, in either kind of engine."""
    if request.param == "torch":
        return lambda **options: open_torch(model.checkpoint, **options)
    return lambda **options: open_tensorrt(model.onnx, **options)


@pytest.mark.parametrize("overlap", [True, False])
def test_graphs_and_what_runs_as_it_comes_agree(
    overlap: bool, open_gpu: Callable[..., GpuDetector], caplog: pytest.LogCaptureFixture
) -> None:
    batches = [random_frames((96 + 40 * seed, 128), (50, 70 + 9 * seed), seed=seed) for seed in range(4)]
    with open_gpu(overlap=overlap) as detector:
        detector.captures = False
        expected = [detector(batch) for batch in batches]
        assert min(len(found) for batch in expected for found in batch) > 0
        detector.captures = True
        for _ in range(4):
            for batch, wanted in zip(batches, expected, strict=True):
                assert_all_equal(detector(batch), wanted)
        assert detector.captured == [{2}] * detector.slots  # one for frames of all sizes
        for batch in batches:
            detector.submit([frame.copy() for frame in batch])
        for wanted in expected:
            assert_all_equal(detector.collect(), wanted)
        assert len(detector(batches[0] * 20)) == 40  # more than the engine takes at once
    assert "without a CUDA graph" not in caplog.text


def test_another_score_threshold_reaches_the_graphs(
    open_gpu: Callable[..., GpuDetector], caplog: pytest.LogCaptureFixture
) -> None:
    (frame,) = random_frames((96, 128))
    with open_gpu() as detector:
        counts = []
        for threshold in (0.01, 0.4, 0.01):
            detector.score_threshold = threshold
            found = [detector([frame])[0] for _ in range(4)]
            assert all(detector.captured)
            for each in found:
                assert_all_equal([each], [found[0]])
            counts.append(int((found[0].scores > 0.4).sum()))
            assert len(found[0]) == counts[-1] if threshold == 0.4 else len(found[0]) > counts[-1]
    assert counts[0] == counts[1] == counts[2]
    assert "without a CUDA graph" not in caplog.text


def test_detections_are_those_of_the_processor(open_gpu: Callable[..., GpuDetector], model: Any) -> None:
    """Up to what other kernels and TF32 do to scores; detections at the threshold may go either way."""
    with open_gpu() as detector, open_detector(model.checkpoint, score_threshold=0.01) as cpu:
        for frame in random_frames((96, 128), (50, 70)):
            (got,), (expected,) = detector([frame]), cpu([frame])
            best = min(10, len(expected))
            np.testing.assert_allclose(got.scores[:best], expected.scores[:best], atol=5e-3)
            for one, other in zip(
                detector.infer(frame_images(frame, cpu)), cpu.infer(frame_images(frame, cpu)), strict=True
            ):
                np.testing.assert_allclose(one, other, atol=5e-3)


def test_the_bundled_model_in_tensorrt(cuda: Cuda, tmp_path: Path) -> None:
    """The one test of TensorRT that needs neither torch nor onnx: on a Jetson with its base install."""
    onnx = tmp_path / "bundled.onnx"
    onnx.write_bytes(bundled_model().read_bytes())
    frame = synthetic_frame()
    with open_tensorrt(onnx) as detector, open_detector(bundled_model(), score_threshold=0.4) as cpu:
        (expected,) = cpu([frame])
        assert len(expected) == 4
        for _ in range(3):  # as it comes, captured, replayed
            (found,) = detector([frame])
            best = found.above(0.4)
            np.testing.assert_array_equal(best.labels, expected.labels)
            np.testing.assert_allclose(best.scores, expected.scores, atol=5e-3)
            np.testing.assert_allclose(best.boxes_xyxy, expected.boxes_xyxy, atol=2)  # pixels of 640


def frame_images(frame: np.ndarray, detector: Detector) -> np.ndarray:
    return preprocess(frame, (detector.card.height, detector.card.width))[None]


def test_frames_of_pytorch_on_the_gpu(open_gpu: Callable[..., GpuDetector]) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    with open_gpu() as detector:
        for seed in range(6):
            (frame,) = random_frames((96, 128), seed=seed)
            wide = torch.zeros((96, 140, 3), dtype=torch.uint8, device="cuda")
            wide[:, 7:135] = torch.from_numpy(frame).cuda()  # the detector waits for this by itself
            assert_all_equal(detector([wide[:, 7:135]]), detector([frame]))


def test_two_detectors_in_two_threads(open_gpu: Callable[..., GpuDetector]) -> None:
    batches = [random_frames((96, 128), (50, 70), seed=seed) for seed in range(20)]
    results: list[list[Any]] = [[], []]

    def run(detector: GpuDetector, result: list[Any]) -> None:
        result.extend(detector(batch) for batch in batches)

    with open_gpu() as one, open_gpu() as other:
        threads = [threading.Thread(target=run, args=pair) for pair in zip((one, other), results, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [len(result) for result in results] == [20, 20]
    for mine, theirs in zip(*results, strict=True):
        assert_all_equal(mine, theirs)


def test_closing_gives_the_memory_back(cuda: Cuda) -> None:
    """Forty times, so that a leak of one of its larger pieces adds up to more than the driver's own give and take.

    It fails where another process takes memory meanwhile: run it on a GPU that nothing else uses.
    """
    if cuda.gpu.integrated:
        pytest.skip("the processor's programs use the same memory")
    with open_detector(bundled_model()) as cpu:
        frames = random_frames((1080, 1920)) * 4

        def open_and_close() -> None:
            with GpuDetector(DetourEngine(cpu, open_cuda()), cpu.card) as detector:
                detector(frames)

        open_and_close()  # loads kernels, which stay
        free = cuda.free_memory()[0]
        for _ in range(40):
            open_and_close()
        assert cuda.free_memory()[0] > free - (32 << 20)
