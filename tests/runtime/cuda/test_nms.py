"""The suppression's kernels, compiled for the host, against `runtime.nms`."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from ssd_edge.bundled import bundled_model
from ssd_edge.detections import Detections
from ssd_edge.errors import UsageError
from ssd_edge.runtime.cuda.errors import CudaError, CudaMemoryError
from ssd_edge.runtime.cuda.kernels import KERNEL_SOURCE, KERNELS
from ssd_edge.runtime.cuda.nms import MOST_KEYS, Nms
from ssd_edge.runtime.detector import open_detector
from ssd_edge.runtime.nms import nms
from ssd_edge.runtime.preprocess import preprocess
from tests.fakes.host_cuda import FORWARD, ORDERS, REVERSE, HostCuda, HostStream
from tests.runtime.cuda.nms_runs import downloaded, references, run_nms
from tests.runtime.equal_detections import assert_all_equal, assert_equal
from tests.runtime.nms_inputs import SETTINGS, random_boxes


def check(cuda: HostCuda, boxes: np.ndarray, scores: np.ndarray, **settings: Any) -> list[Detections]:
    """The kernels' results, after they were compared with the reference's."""
    settings = SETTINGS | settings
    how = {name: settings.pop(name) for name in ("threads", "score_offset") if name in settings}
    found = run_nms(cuda, boxes, scores, **how, **settings)
    assert_all_equal(found, references(boxes, scores, **settings))
    return found


def keys_at_digit_borders(rng: np.random.Generator, count: int) -> np.ndarray:
    """float32 [count] in (0, 1], whose bits have digits of 0, 1, 510 and 511 where kernels.cu's selection cuts them.

    A key is 63 bits, of which scores are the upper 31: 9, 9, 9 and the upper 4 of the fourth digit.
    """
    digits = rng.choice([0, 1, 510, 511], (count, 3))
    first = rng.choice([0, 1, 2, 200, 253], count)  # 253: just below 1; 0: denormal or 0
    bits = first << 22 | digits[:, 0] << 13 | digits[:, 1] << 4 | digits[:, 2] & 15
    return bits.astype(np.uint32).view(np.float32)


@pytest.mark.parametrize("order", ORDERS)
def test_nms_where_digits_of_keys_are_at_their_borders(order: int) -> None:
    for seed in range(12):
        rng = np.random.default_rng(seed)
        scores = keys_at_digit_borders(rng, 2 * 300 * 2).reshape(2, 300, 2)
        boxes = np.stack([random_boxes(rng, 300) for _ in range(2)])
        limits = {"candidates": int(rng.integers(1, 300)), "detections": int(rng.integers(1, 100))}
        check(HostCuda(order=order), boxes, scores, score_threshold=0.0, iou_threshold=0.9, **limits)


@pytest.mark.parametrize("candidates", [1, 31, 32, 33, 511, 512, 513])
def test_nms_of_equal_scores_takes_the_first_anchors(cuda: HostCuda, candidates: int) -> None:
    # Only the last digits of keys differ, and all keys meet in one digit of each before.
    boxes = np.tile(np.linspace(0, 1, 1030, dtype=np.float32)[None, :, None], (1, 1, 4))  # empty: none overlap
    scores = np.full((1, 1030, 1), 0.75, np.float32)
    (found,) = check(cuda, boxes, scores, candidates=candidates, detections=1000)
    assert np.array_equal(found.boxes_xyxy, boxes[0, :candidates])


@pytest.mark.parametrize(
    ("limit", "count"), [(1, 1), (1, 2), *((n, n + over) for n in (31, 32, 33, 64, 100) for over in (-1, 0, 1))]
)
def test_nms_of_as_many_as_the_limits(cuda: HostCuda, limit: int, count: int) -> None:
    rng = np.random.default_rng(limit)
    scores = rng.permutation(np.linspace(0.2, 1, count, dtype=np.float32)).reshape(1, count, 1)
    boxes = np.tile(np.linspace(0, 1, count, dtype=np.float32)[None, :, None], (1, 1, 4))  # empty: none overlap
    for limits in ({"candidates": limit, "detections": 1000}, {"candidates": 1000, "detections": limit}):
        (found,) = check(cuda, boxes, scores, **limits)
        assert len(found) == min(count, limit)


@pytest.mark.parametrize("classes", [1, 2, 3, 5, 90])
@pytest.mark.parametrize("score_offset", [0, 4, 8, 12])
def test_scores_at_any_address(cuda: HostCuda, score_offset: int, classes: int) -> None:
    # Three images of a size that is no multiple of 4 lie at different places within 16 bytes as well.
    rng = np.random.default_rng(classes)
    for anchors in (1, 2, 3, 5, 33):
        boxes = np.stack([random_boxes(rng, anchors) for _ in range(3)])
        scores = rng.random((3, anchors, classes)).astype(np.float32)
        found = check(cuda, boxes, scores, score_offset=score_offset, score_threshold=0.0, iou_threshold=1.0)
        assert [len(image) for image in found] == [min(anchors * classes, SETTINGS["detections"])] * 3


def test_a_read_behind_the_scores_would_be_seen() -> None:
    source = KERNEL_SOURCE.replace("first < size && first + QUAD <= size", "first < size")
    assert source != KERNEL_SOURCE
    boxes, scores = np.zeros((1, 3, 4), np.float32), np.ones((1, 3, 1), np.float32)
    with pytest.raises(CudaError, match=r"nms_collect: line \d+: .* outside the readable memory"):
        run_nms(HostCuda(), boxes, scores, source=source, **SETTINGS)


@pytest.mark.parametrize("order", [FORWARD, REVERSE])
@pytest.mark.parametrize("score_threshold", [0.001, 0.4])
def test_nms_on_outputs_of_a_network(score_threshold: float, order: int) -> None:
    boxes, scores = network_outputs()
    settings = {"score_threshold": score_threshold, "iou_threshold": 0.45, "candidates": 400, "detections": 200}
    found = check(HostCuda(order=order), boxes, scores, threads=512, **settings)
    assert any(len(image) for image in found)


@cache
def network_outputs() -> tuple[np.ndarray, np.ndarray]:
    """Of the bundled model on generated scenes: float32 [4, 3234, 4] and [4, 3234, 5]."""
    pytest.importorskip("zxingcpp", reason="no zxing-cpp to render scenes with")
    from ssd_edge.data.codes.scenes import CodesScenes

    scenes = CodesScenes(11, (480, 640))
    images = np.stack([preprocess(scenes.scene(index).image_bgr, (320, 320)) for index in range(4)])
    with open_detector(bundled_model(), threads=1) as detector:
        return detector.infer(images)


@pytest.mark.parametrize("threads", [32, 96, 512, 1024])
def test_nms_of_many_scores(cuda: HostCuda, threads: int) -> None:
    # All above the threshold, more than candidates, and more kept than detections: every step has work to do.
    rng = np.random.default_rng(3)
    boxes, scores = random_boxes(rng, 3000)[None], rng.random((1, 3000, 2)).astype(np.float32) ** 4
    found = check(cuda, boxes, scores, score_threshold=0.0, candidates=700, detections=90, threads=threads)
    assert len(found[0]) == 90


def test_the_largest_sizes(cuda: HostCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    launch = HostStream.launch
    shared: list[int] = []

    def noted(*args: Any, shared_bytes: int = 0) -> None:
        shared.append(shared_bytes)
        launch(*args, shared_bytes=shared_bytes)

    monkeypatch.setattr(HostStream, "launch", noted)
    rng = np.random.default_rng(4)
    boxes, scores = random_boxes(rng, 1500)[None], rng.random((1, 1500, 1)).astype(np.float32)
    check(cuda, boxes, scores, iou_threshold=1.0, candidates=MOST_KEYS, detections=MOST_KEYS, threads=1024)
    assert len(shared) == 3
    assert max(shared) <= 48 * 1024  # what a block of any GPU has without asking


def test_nms_in_a_graph_takes_what_lies_there(cuda: HostCuda) -> None:
    kernels = cuda.module(KERNEL_SOURCE, KERNELS)
    limits = {name: SETTINGS[name] for name in ("candidates", "detections")}
    thresholds = {name: SETTINGS[name] for name in ("score_threshold", "iou_threshold")}
    boxes, scores = np.empty((3, 40, 4), np.float32), np.empty((3, 40, 2), np.float32)
    with cuda.stream() as stream, Nms(cuda, kernels, 5, 40, 2, **limits) as suppression:
        stream.begin_capture()
        suppression.launch(stream, boxes.ctypes.data, scores.ctypes.data, **thresholds, batch=3)
        with stream.end_capture() as graph:
            for seed in range(3):
                rng = np.random.default_rng(seed)
                boxes[:], scores[:] = [random_boxes(rng, 40) for _ in boxes], rng.random(scores.shape)
                graph.launch(stream)
                output = downloaded(suppression, stream)
                found = suppression.read(output, [(1, 1)] * 3)
                output[:] = 0  # by the next download: what was read is not of it
                for image_boxes, image_scores, image_found in zip(boxes, scores, found, strict=True):
                    assert_equal(image_found, nms(image_boxes, image_scores, **SETTINGS))


def test_detections_are_in_pixels_of_each_frame_and_zeros_follow_them() -> None:
    cuda = HostCuda()
    boxes = np.array([[[0.25, 0.5, 0.5, 0.75]]] * 2, np.float32)
    scores = np.array([[[0.0, 0.9]], [[0.8, 0.0]]], np.float32)
    with cuda.stream() as stream, Nms(cuda, cuda.module(KERNEL_SOURCE, KERNELS), 2, 1, 2, 10, 3) as suppression:
        suppression.launch(stream, boxes.ctypes.data, scores.ctypes.data, score_threshold=0.1, iou_threshold=0.5)
        output = downloaded(suppression, stream)
        first, second = suppression.read(output, [(100, 200), (40, 80)])
        assert first.boxes_xyxy.tolist() == [[50, 50, 100, 75]]
        assert second.boxes_xyxy.tolist() == [[20, 20, 40, 30]]
        assert (first.labels.tolist(), second.labels.tolist()) == ([1], [0])
        assert len(suppression.read(output, [(100, 200)])) == 1
        # boxes, scores, labels, counts
        assert output.view(np.float32)[:24].reshape(2, 3, 4)[:, 1:].tolist() == [[[0] * 4] * 2] * 2
        assert output.view(np.float32)[24:30].tolist() == pytest.approx([0.9, 0, 0, 0.8, 0, 0])
        assert output.view(np.int32)[30:].tolist() == [1, 0, 0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((1, 10, 2, 0, 5), "0 candidates; .* 1 to 1024"),
        ((1, 10, 2, 5, 1025), "1025 detections"),
        ((0, 10, 2, 5, 5), "a batch of 0"),
        ((1, 2**26, 32, 5, 5), "fewer than 2³¹ scores"),
    ],
)
def test_sizes_that_do_not_fit(sizes: tuple[int, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Nms(HostCuda(), {}, *sizes)


@pytest.mark.parametrize("threads", [0, 16, 48, 1056])
def test_a_block_is_whole_warps(threads: int) -> None:
    with pytest.raises(UsageError, match=f"{threads} threads; expected a multiple of 32, up to 1024"):
        Nms(HostCuda(), {}, 1, 10, 2, 5, 5, threads=threads)


def test_what_nms_cannot_take() -> None:
    cuda = HostCuda()
    thresholds = {"score_threshold": 0.1, "iou_threshold": 0.5}
    with cuda.stream() as stream, Nms(cuda, {}, 2, 10, 3, 5, 5) as suppression:
        for boxes, scores, changes, message in (
            (256, 256, {"score_threshold": -0.1}, "expected 0 or above"),
            (256, 256, {"iou_threshold": float("nan")}, "expected 0 or above"),
            (264, 256, {}, "boxes at address 264; expected a multiple of 16"),
            (256, 258, {}, "scores at address 258; expected a multiple of 4"),
            (256, 256, {"batch": 3}, "3 images; expected 1 to 2"),
        ):
            with pytest.raises(UsageError, match=message):
                suppression.launch(stream, boxes, scores, **(thresholds | changes))


def test_memory_is_freed_when_there_is_not_enough() -> None:
    cuda = HostCuda(total_memory=20_000)
    with pytest.raises(CudaMemoryError):
        Nms(cuda, {}, 1, 1000, 2, 400, 200)
    assert cuda.allocated == 0
