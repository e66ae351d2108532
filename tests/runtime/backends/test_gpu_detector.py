"""The GPU's pipeline on the processor, with the kernels that a GPU runs, against the detector of the processor."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from ssd_edge.bundled import bundled_model
from ssd_edge.errors import SsdEdgeError, UsageError
from ssd_edge.runtime.backends.base import Detector
from ssd_edge.runtime.backends.gpu_detector import GpuDetector
from ssd_edge.runtime.cuda.errors import CudaFatalError, CudaMemoryError
from ssd_edge.runtime.detector import open_detector
from ssd_edge.runtime.stream import run as stream
from ssd_edge.runtime.stream.config import StreamConfig
from ssd_edge.runtime.stream.run import run_stream
from tests.fakes.host_cuda import HostCuda
from tests.fakes.host_engine import HostEngine
from tests.fakes.lazy_cuda import LazyCuda, LazyStream
from tests.runtime.backends.gpu_runs import CUDAS, engine_of, nv12_of, random_frames
from tests.runtime.equal_detections import assert_all_equal


@pytest.mark.parametrize("make_cuda", CUDAS)
@pytest.mark.parametrize("threshold", [0.02, 0.4])
def test_the_bundled_model_detects_what_it_does_on_the_processor(
    make_cuda: Callable[[], HostCuda], threshold: float
) -> None:
    pytest.importorskip("zxingcpp", reason="no zxing-cpp to render scenes with")
    from ssd_edge.data.codes.scenes import CodesScenes

    small, large = (CodesScenes(3, size).scene(0).image_bgr for size in ((240, 320), (480, 640)))
    with open_detector(bundled_model(), threads=1, score_threshold=threshold) as cpu:
        expected = cpu([small, large])
        assert min(map(len, expected)) > 0
        engine = HostEngine(cpu.infer, (cpu.card.height, cpu.card.width), cuda=make_cuda())
        with GpuDetector(engine, cpu.card, score_threshold=threshold) as detector:
            for _ in range(3):
                assert_all_equal(detector([small, large]), expected)
            assert engine.captures == 2  # one for each slot


def test_the_bundled_model_detects_in_planes_what_it_does_on_the_processor() -> None:
    pytest.importorskip("zxingcpp", reason="no zxing-cpp to render scenes with")
    from ssd_edge.data.codes.scenes import CodesScenes

    frames = [nv12_of(CodesScenes(3, size).scene(0).image_bgr) for size in ((240, 320), (480, 640))]
    with open_detector(bundled_model(), threads=1, score_threshold=0.4) as cpu:
        engine = HostEngine(cpu.infer, (cpu.card.height, cpu.card.width))
        with GpuDetector(engine, cpu.card, score_threshold=0.4) as gpu:
            for found, wanted in zip(gpu(frames), cpu(frames), strict=True):
                assert len(wanted) > 0
                assert found.labels.tolist() == wanted.labels.tolist()
                np.testing.assert_allclose(found.scores, wanted.scores, atol=5e-3)  # colours are rounded in other steps
                np.testing.assert_allclose(found.boxes_xyxy, wanted.boxes_xyxy, atol=0.3)


@pytest.mark.parametrize("make_cuda", CUDAS)
@pytest.mark.parametrize("slots", [1, 2, 3])
def test_batches_of_any_size_are_split_and_padded(
    make_cuda: Callable[[], HostCuda], slots: int, cpu: Detector, open_gpu: Callable[..., GpuDetector]
) -> None:
    detector = open_gpu(make_cuda(), (2, 3), slots=slots)
    frames = random_frames((64, 128), (1, 1), (40, 30), (32, 32), (64, 128), (7, 300), (64, 128))
    for _ in range(4):
        for count in (7, 1, 0, 3):
            assert_all_equal(detector(frames[:count]), cpu(frames[:count]))
    assert engine_of(detector).runs == [3, 3, 2, 2, 3] * 4


@pytest.mark.parametrize("make_cuda", CUDAS)
@pytest.mark.parametrize("slots", [1, 2])
def test_what_is_submitted_comes_back_in_order(
    make_cuda: Callable[[], HostCuda], slots: int, cpu: Detector, open_gpu: Callable[..., GpuDetector]
) -> None:
    detector = open_gpu(make_cuda(), slots=slots)
    batches = [random_frames(*[(48, 64)] * (1 + seed % 3), seed=seed) for seed in range(9)]
    expected = [cpu(batch) for batch in batches]
    got = []
    for index, batch in enumerate(batches):
        given = [frame.copy() for frame in batch]
        detector.submit(given)
        for frame in given:
            frame.fill(0)  # it is ours no more
        if index >= 3:  # more under way than there are slots
            got.append(detector.collect())
    got += [detector.collect() for _ in range(3)]
    for one, other in zip(got, expected, strict=True):
        assert_all_equal(one, other)
    with pytest.raises(SsdEdgeError, match="nothing to collect; submit frames first"):
        detector.collect()


def test_the_next_upload_does_not_wait_for_the_network(open_gpu: Callable[..., GpuDetector]) -> None:
    for slots, streams in ((2, 2), (1, 1)):
        cuda = LazyCuda()
        detector = open_gpu(cuda, slots=slots)
        for seed in range(slots):
            detector.submit(random_frames((48, 64), seed=seed))
        assert engine_of(detector).runs == []
        assert len(cuda.streams) == streams
        (copies,) = cuda.streams - {detector.engine.stream} or cuda.streams
        copies.synchronize()  # uploads of all slots are behind nothing else
        assert len(engine_of(detector).runs) == (0 if slots == 2 else 1)


def test_infer_is_the_network_alone(cpu: Detector, open_gpu: Callable[..., GpuDetector]) -> None:
    detector = open_gpu(LazyCuda(), (2, 3))
    images = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), np.uint8)
    for given in (images, images[::-2], images[:1]):
        for one, other in zip(detector.infer(given), cpu.infer(np.ascontiguousarray(given)), strict=True):
            np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match=r"images are uint8 \[7, 16, 32, 3\]; expected uint8 \[batch, 32, 32, 3\]"):
        detector.infer(images[:, ::2])


@pytest.mark.parametrize("error", [SsdEdgeError("it does not run"), CudaFatalError("gone")])
def test_an_error_leaves_nothing_under_way(
    error: Exception, cpu: Detector, open_gpu: Callable[..., GpuDetector]
) -> None:
    detector = open_gpu(LazyCuda())
    frames = random_frames((48, 64))
    detector.submit(frames)
    engine_of(detector).fails = error
    with pytest.raises(type(error), match=str(error)):
        detector.submit(frames * 2)  # a size that is not captured yet
    stream = engine_of(detector).stream
    assert isinstance(stream, LazyStream)
    assert not stream.work  # the memory of both can be used again
    with pytest.raises(SsdEdgeError, match="nothing to collect"):
        detector.collect()
    for _ in range(4):
        assert_all_equal(detector(frames), cpu(frames))


def test_a_call_between_submit_and_collect(cpu: Detector, open_gpu: Callable[..., GpuDetector]) -> None:
    detector = open_gpu()
    frames = random_frames((48, 64))
    detector.submit(frames)
    with pytest.raises(SsdEdgeError, match="not collected: 1; collect them before the detector is called"):
        detector(frames)
    assert_all_equal(detector.collect(), cpu(frames))


def test_too_little_memory_frees_what_there_was(cpu: Detector) -> None:
    size = (cpu.card.height, cpu.card.width)
    needed = HostCuda()
    detector = GpuDetector(HostEngine(cpu.infer, size, cuda=needed), cpu.card)
    engine_bytes, all_bytes = HostEngine(cpu.infer, size).cuda.allocated, needed.allocated
    detector.close()
    for total in range(engine_bytes, all_bytes, 500):
        cuda = HostCuda(total_memory=total)
        engine = HostEngine(cpu.infer, size, cuda=cuda)
        with pytest.raises(CudaMemoryError):
            GpuDetector(engine, cpu.card)
        assert cuda.allocated == 0
    cuda = HostCuda(total_memory=all_bytes + 48 * 64 * 3 + 5000)
    detector = GpuDetector(HostEngine(cpu.infer, size, cuda=cuda), cpu.card)
    with pytest.raises(CudaMemoryError):  # of the frames, in the middle
        detector(random_frames((48, 64)))
    small = random_frames((20, 30))
    assert_all_equal(detector(small), cpu(small))
    detector.close()
    assert cuda.allocated == 0


def test_close(cpu: Detector, open_gpu: Callable[..., GpuDetector]) -> None:
    detector = open_gpu(LazyCuda())
    frames = random_frames((48, 64))
    for _ in range(5):
        detector(frames)
    detector.submit(frames)  # and nobody collects it
    detector.close()
    detector.close()
    assert engine_of(detector).cuda.allocated == 0
    for use in (lambda: detector(frames), lambda: detector.submit(frames), detector.collect):
        with pytest.raises(SsdEdgeError, match="this detector is closed"):
            use()
    with pytest.raises(SsdEdgeError, match="this detector is closed"):
        detector.infer(np.zeros((1, 32, 32, 3), np.uint8))


def test_a_wrong_threshold_frees_the_engine(cpu: Detector) -> None:
    engine = HostEngine(cpu.infer, (32, 32))
    with pytest.raises(UsageError, match="threshold 2"):
        GpuDetector(engine, cpu.card, score_threshold=2)
    assert engine.cuda.allocated == 0


def test_a_detector_for_each_of_two_threads(cpu: Detector, open_gpu: Callable[..., GpuDetector]) -> None:
    detectors = [open_gpu(), open_gpu()]
    batches = [random_frames((48, 64), (20, 20), seed=seed) for seed in range(8)]
    expected = [cpu(batch) for batch in batches]
    failures: list[BaseException] = []

    def run(detector: GpuDetector) -> None:
        try:
            for batch, wanted in zip(batches, expected, strict=True):
                assert_all_equal(detector(batch), wanted)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(detector,)) for detector in detectors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_timings_are_of_what_was_collected(open_gpu: Callable[..., GpuDetector]) -> None:
    detector = open_gpu()
    assert detector.timings.total_ms == 0
    detector.submit(random_frames((480, 640)))
    assert detector.timings.total_ms == 0
    detector.collect()
    timings = detector.timings
    assert min(timings.preprocess_ms, timings.infer_ms, timings.nms_ms) > 0


@pytest.mark.parametrize("latency", [False, True])
def test_a_stream_on_the_gpu_writes_what_one_on_the_processor_does(
    latency: bool,
    tmp_path: Path,
    model_path: Path,
    open_gpu: Callable[..., GpuDetector],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "in").mkdir()
    for number, frame in enumerate(random_frames(*[(48, 64)] * 5, (100, 30))):
        cv2.imwrite(str(tmp_path / "in" / f"{number}.png"), frame)

    def write(name: str) -> str:
        config = StreamConfig(
            tmp_path / "in", model_path, jsonl=str(tmp_path / name), score_threshold=0.5, latency=latency
        )
        assert run_stream(config, progress=False).frames == 6
        return "".join(
            line.partition('"width"')[2] for line in (tmp_path / name).read_text(encoding="utf-8").splitlines()
        )

    expected = write("cpu.jsonl")
    monkeypatch.setattr(
        stream, "open_detector", lambda *_, overlap, **__: open_gpu(LazyCuda(), slots=2 if overlap else 1)
    )
    assert write("gpu.jsonl") == expected
