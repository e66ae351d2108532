"""CUDA graphs of the GPU's pipeline: when they are captured, what they serve, what happens where a capture fails."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from ssd_edge.errors import SsdEdgeError
from ssd_edge.runtime.backends import gpu_detector
from ssd_edge.runtime.backends.base import Detector
from ssd_edge.runtime.backends.gpu_detector import GpuDetector
from ssd_edge.runtime.cuda.errors import CudaFatalError
from tests.fakes.device_arrays import OnGpu
from tests.fakes.host_cuda import HostCuda
from tests.fakes.lazy_cuda import LazyCuda
from tests.runtime.backends.gpu_runs import CUDAS, engine_of, random_frames
from tests.runtime.equal_detections import assert_all_equal


def cameras() -> list[list[Any]]:
    """Batches of four cameras with two resolutions, whose frames come in another order every time."""
    batches = []
    for turn in range(12):
        sizes = [(48, 64), (30, 100), (48, 64), (30, 100)]
        batches.append(random_frames(*sizes[turn % 4 :], *sizes[: turn % 4], seed=turn)[: 1 + turn % 3])
    return batches


def growing_frames() -> list[list[Any]]:
    """Each needs more memory than those before."""
    return [random_frames((16 + 10 * turn, 20 + 5 * turn), seed=turn) for turn in range(8)]


def decoder_pool() -> list[list[Any]]:
    """A decoder's surfaces: 20 addresses on the GPU in rotation."""
    surfaces = [OnGpu(frame, gap=3) for frame in random_frames(*[(48, 64)] * 20)]
    return [[surface] for surface in surfaces * 2]


@pytest.mark.parametrize("make_cuda", CUDAS)
@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("give", [cameras, growing_frames, decoder_pool])
def test_graphs_serve_frames_of_any_size_and_address(
    give: Callable[[], list[list[Any]]],
    slots: int,
    make_cuda: Callable[[], HostCuda],
    cpu: Detector,
    open_gpu: Callable[..., GpuDetector],
) -> None:
    batches = give()
    expected = [cpu([f.frame if isinstance(f, OnGpu) else f for f in batch]) for batch in batches]
    assert min(len(found) for batch in expected for found in batch) > 0
    sizes = {len(batch) for batch in batches}
    detector = open_gpu(make_cuda(), slots=slots)
    engine = engine_of(detector)
    for size in sizes:  # run step by step, then captured in each slot
        for _ in range(1 + slots):
            detector(random_frames(*[(20, 20)] * size))
    assert engine.captures == len(sizes) * slots
    warm = engine.enqueued
    for batch in batches[:slots]:
        detector.submit(batch)
    got = []
    for batch in batches[slots:]:
        got.append(detector.collect())
        detector.submit(batch)
    got += [detector.collect() for _ in range(slots)]
    for one, other in zip(got, expected, strict=True):
        assert_all_equal(one, other)
    assert (engine.captures, engine.enqueued) == (len(sizes) * slots, warm)  # all were replayed


def test_the_second_batch_of_a_size_is_captured(cpu: Detector, open_gpu: Callable[..., GpuDetector]) -> None:
    detector = open_gpu(batch=(2, 4), slots=1)
    engine = engine_of(detector)
    seen: list[tuple[int, int]] = []
    for count in (3, 3, 3, 1, 1, 2, 2, 3):  # 1 and 2 run in batches of 2, and differ in what NMS reads
        frames = random_frames(*[(40, 30)] * count, seed=len(seen))
        assert_all_equal(detector(frames), cpu(frames))
        seen.append((engine.captures, engine.enqueued))
    assert seen == [(0, 1), (1, 2), (1, 2), (1, 3), (2, 4), (2, 5), (3, 6), (3, 6)]
    assert engine.runs == [3, 3, 3, 2, 2, 2, 2, 3]


@pytest.mark.parametrize("slots", [1, 2])
def test_another_score_threshold_reaches_graphs(
    slots: int, cpu: Detector, open_gpu: Callable[..., GpuDetector]
) -> None:
    detector = open_gpu(LazyCuda(), slots=slots)
    frames = random_frames((48, 64), (30, 40))
    expected = {}
    for threshold in (0.02, 0.9):
        cpu.score_threshold = threshold
        expected[threshold] = cpu(frames)
    assert sum(map(len, expected[0.02])) > sum(map(len, expected[0.9])) > 0
    submitted: list[float] = []
    for threshold in [0.02] * 4 + [0.9] * 4 + [0.02] * 4:
        detector.score_threshold = threshold
        detector.submit(frames)  # while the batch before may still run
        submitted.append(threshold)
        if len(submitted) > 1:
            assert_all_equal(detector.collect(), expected[submitted.pop(0)])
    assert_all_equal(detector.collect(), expected[0.02])
    assert engine_of(detector).captures == 3 * slots


def test_captures_that_keep_failing_are_given_up(
    cpu: Detector, open_gpu: Callable[..., GpuDetector], caplog: pytest.LogCaptureFixture
) -> None:
    detector = open_gpu()
    for _ in range(3):
        detector(random_frames((48, 64)))
    engine = engine_of(detector)
    assert engine.captures == 2
    engine.refused_captures = gpu_detector.FAILED_CAPTURES
    with caplog.at_level(logging.WARNING):
        for seed in range(8):
            frames = random_frames((48, 64), (20, 20), seed=seed)
            assert_all_equal(detector(frames), cpu(frames))
    assert_all_equal(detector(frames[:1]), cpu(frames[:1]))  # an engine that refuses has no use for its graphs any more
    assert (engine.captures, engine.enqueued) == (2, 3 + 8 + gpu_detector.FAILED_CAPTURES + 1)
    assert [record.message for record in caplog.records] == [
        "the detector runs without a CUDA graph: CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"
    ]
    assert not any(graph.calls for graph in engine.graphs)  # all are closed


def test_an_engine_that_fails_in_a_capture_leaves_the_stream_usable(
    cpu: Detector, open_gpu: Callable[..., GpuDetector], caplog: pytest.LogCaptureFixture
) -> None:
    detector = open_gpu(slots=1)
    frames = random_frames((48, 64))
    detector(frames)
    for _ in range(gpu_detector.FAILED_CAPTURES):
        engine_of(detector).fails = SsdEdgeError("the engine does not run: Cask")
        assert_all_equal(detector(frames), cpu(frames))
    assert "without a CUDA graph: the engine does not run: Cask" in caplog.text


def test_a_capture_that_fails_now_and_then_is_tried_again(
    cpu: Detector, open_gpu: Callable[..., GpuDetector], caplog: pytest.LogCaptureFixture
) -> None:
    detector = open_gpu(slots=1)
    engine = engine_of(detector)
    for count in range(1, 1 + gpu_detector.FAILED_CAPTURES):
        engine.refused_captures = gpu_detector.FAILED_CAPTURES - 1
        frames = random_frames(*[(48, 64)] * count)
        for _ in range(gpu_detector.FAILED_CAPTURES + 1):  # step by step, refused, captured
            assert_all_equal(detector(frames), cpu(frames))
    assert engine.captures == gpu_detector.FAILED_CAPTURES
    assert not caplog.records


def test_where_there_are_no_graphs(cpu: Detector, open_gpu: Callable[..., GpuDetector]) -> None:
    cuda = HostCuda()
    cuda.has_graphs = False
    detector = open_gpu(cuda)
    for _ in range(5):
        frames = random_frames((48, 64))
        assert_all_equal(detector(frames), cpu(frames))
    assert engine_of(detector).captures == 0


def test_a_fatal_error_in_a_capture_is_not_passed_over(open_gpu: Callable[..., GpuDetector]) -> None:
    detector = open_gpu(slots=1)
    detector(random_frames((48, 64)))
    engine_of(detector).fails = CudaFatalError("gone")
    with pytest.raises(CudaFatalError, match="gone"):
        detector(random_frames((48, 64)))


@pytest.mark.parametrize("slots", [1, 2])
def test_without_captures_batches_run_step_by_step(
    slots: int, cpu: Detector, open_gpu: Callable[..., GpuDetector]
) -> None:
    detector = open_gpu(slots=slots)
    engine, frames = engine_of(detector), random_frames((48, 64))
    expected = cpu(frames)
    for captures, captured in ((False, set()), (True, {1}), (False, {1})):
        detector.captures = captures
        before = engine.enqueued
        for _ in range(3):
            assert_all_equal(detector(frames), expected)
        assert detector.captured == [captured] * slots
        assert engine.enqueued - before == (slots if captures else 3)  # that of a capture, and no other


def test_work_that_is_timed_is_that_of_a_batch(cpu: Detector, open_gpu: Callable[..., GpuDetector]) -> None:
    cuda = LazyCuda()
    detector = open_gpu(cuda)
    frames = random_frames((48, 64), (30, 100))
    work = detector.work_of(frames)
    for _ in range(4):  # step by step, captured, replayed
        work()
        cuda.synchronize()
    assert detector.captured == [{2}, set()]
    assert_all_equal(detector(frames), cpu(frames))
