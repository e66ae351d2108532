"""The CUDA kernels, compiled for the host, against the references: runtime.preprocess and runtime.nms.

The threads of a block run in several orders, so that what depends on one is found.
"""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from ssd_edge.bundled import bundled_model
from ssd_edge.detections import Detections
from ssd_edge.errors import UsageError
from ssd_edge.images import ImageError
from ssd_edge.runtime.cuda.errors import CudaError, CudaMemoryError
from ssd_edge.runtime.cuda.kernels import (
    BT601_FULL,
    BT709,
    BT709_FULL,
    KERNEL_SOURCE,
    KERNELS,
    MOST_KEYS,
    Nms,
    YuvColours,
    preprocess_bgr,
    preprocess_nv12,
)
from ssd_edge.runtime.detector import open_detector
from ssd_edge.runtime.nms import nms
from ssd_edge.runtime.preprocess import preprocess
from tests.fakes.host_cuda import HostCuda, HostStream
from tests.runtime.test_nms import assert_equal, random_boxes

ORDERS = FORWARD, REVERSE, SHUFFLED = 0, 1, 7


@pytest.fixture(params=ORDERS, ids=["forward", "reverse", "shuffled"])
def cuda(request: pytest.FixtureRequest) -> Iterator[HostCuda]:
    with HostCuda(order=request.param) as cuda:
        yield cuda
        assert cuda.allocated == 0


def run_preprocess(launch: Callable[..., None], cuda: HostCuda, planes: list[np.ndarray], size_hw, *, gap: int = 0):
    """uint8 [height, width, 3] of planes that are put into memory with a gap between rows."""
    kernels = cuda.module(KERNEL_SOURCE, KERNELS)
    with ExitStack() as stack:
        stream = stack.enter_context(cuda.stream())
        arguments = []
        for plane in planes:
            row = plane[0].nbytes
            memory = stack.enter_context(cuda.memory(len(plane) * (row + gap)))
            stream.copy_rows(memory.address, row + gap, plane.ctypes.data, row, row, len(plane))
            arguments += [memory.address, row + gap]
        result = np.empty((*size_hw, 3), np.uint8)
        out = stack.enter_context(cuda.memory(result.nbytes))
        launch(stream, kernels, *arguments, planes[0].shape[:2], out.address, size_hw)
        stream.copy(result.ctypes.data, out.address, result.nbytes)
    return result


@pytest.mark.parametrize("gap", [0, 5])
@pytest.mark.parametrize("size_hw", [(1, 1), (7, 5), (60, 60), (64, 100)])
@pytest.mark.parametrize("frame_hw", [(1, 1), (2, 3), (1, 90), (37, 53), (120, 120), (135, 240), (14, 10)])
def test_preprocess(cuda: HostCuda, frame_hw: tuple[int, int], size_hw: tuple[int, int], gap: int) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (*frame_hw, 3), dtype=np.uint8)
    found = run_preprocess(preprocess_bgr, cuda, [frame], size_hw, gap=gap)
    assert np.abs(found.astype(int) - preprocess(frame, size_hw)).max() <= 1


def test_preprocess_of_a_full_frame() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), dtype=np.uint8)
    found = run_preprocess(preprocess_bgr, HostCuda(), [frame], (300, 300))
    assert np.abs(found.astype(int) - preprocess(frame, (300, 300))).max() <= 1


def test_preprocess_by_hand(cuda: HostCuda) -> None:
    row = np.array([[[0, 200, 1], [100, 0, 1]]], np.uint8)  # [1, 2, 3] BGR; see test_preprocess.py
    found = run_preprocess(preprocess_bgr, cuda, [row], (1, 4))
    assert found.tolist() == [[[1, 200, 0], [1, 150, 25], [1, 50, 75], [1, 0, 100]]]


@pytest.mark.parametrize("size_hw", [(7, 5), (64, 100)])
@pytest.mark.parametrize("frame_hw", [(2, 2), (4, 6), (36, 54), (108, 192)])
def test_preprocess_nv12(cuda: HostCuda, frame_hw: tuple[int, int], size_hw: tuple[int, int]) -> None:
    height, width = frame_hw
    planes = np.random.default_rng(1).integers(0, 256, (height * 3 // 2, width), dtype=np.uint8)
    found = run_preprocess(preprocess_nv12, cuda, [planes[:height], planes[height:]], size_hw, gap=3)
    wanted = preprocess(cv2.cvtColor(planes, cv2.COLOR_YUV2BGR_NV12), size_hw)
    assert np.abs(found.astype(int) - wanted).max() <= 1


@pytest.mark.parametrize(
    ("colours", "black", "luma", "matrix"),
    # Rec. ITU-R BT.709-6 and BT.601-7 solved for red, green and blue: factors of (u − 128, v − 128).
    [
        (BT709, 16, 1.16438, [[0, 1.79274], [-0.21325, -0.53291], [2.11240, 0]]),
        (BT709_FULL, 0, 1.0, [[0, 1.5748], [-0.18732, -0.46812], [1.8556, 0]]),
        (BT601_FULL, 0, 1.0, [[0, 1.402], [-0.34414, -0.71414], [1.772, 0]]),
    ],
)
def test_other_colours(colours: YuvColours, black: int, luma: float, matrix: list[list[float]]) -> None:
    planes = np.random.default_rng(2).integers(0, 256, (60, 50), dtype=np.uint8)
    y, uv = planes[:40].astype(float), planes[40:].reshape(20, 25, 2).repeat(2, 0).repeat(2, 1) - 128.0
    wanted = np.clip(luma * np.maximum(y - black, 0)[..., None] + uv @ np.array(matrix).T, 0, 255)

    def launch(*arguments: object) -> None:
        preprocess_nv12(*arguments, colours=colours)

    found = run_preprocess(launch, HostCuda(), [planes[:40], planes[40:]], (40, 50))  # as large as the frame
    assert np.abs(found - wanted).max() <= 0.51  # rounding, and the five digits above


@pytest.mark.parametrize(
    ("launch", "geometry", "message"),
    [
        (preprocess_bgr, (0, 30, (0, 10)), "at least one pixel"),
        (preprocess_bgr, (0, 29, (5, 10)), "29 bytes apart; expected at least 30"),
        (preprocess_nv12, (0, 10, 0, 10, (5, 10)), "even"),
        (preprocess_nv12, (0, 10, 0, 9, (6, 10)), "chroma with rows 9 bytes apart"),
    ],
)
def test_a_frame_that_cannot_be(launch: Callable[..., None], geometry: tuple, message: str) -> None:
    cuda = HostCuda()
    with cuda.stream() as stream, pytest.raises(ImageError, match=message):
        launch(stream, {}, *geometry, 0, (3, 3))


SETTINGS = {"score_threshold": 0.1, "iou_threshold": 0.5, "candidates": 100, "detections": 50}


def run_nms(
    cuda: HostCuda,
    boxes: np.ndarray,
    scores: np.ndarray,
    *,
    source: str = KERNEL_SOURCE,
    threads: int = 64,
    score_offset: int = 0,
    score_threshold: float,
    iou_threshold: float,
    candidates: int,
    detections: int,
) -> list[Detections]:
    """Of float32 [batch, anchors, 4] and [batch, anchors, classes]; in fractions of the image.

    score_offset: bytes from an address that is a multiple of 256 to the first score. Nothing but boxes and scores may
    be read by the kernels' loads of either.
    """
    kernels = cuda.module(source, KERNELS)
    with ExitStack() as stack:
        stream = stack.enter_context(cuda.stream())
        addresses = []
        for array, offset in ((boxes, 0), (scores, score_offset)):
            addresses.append(stack.enter_context(cuda.memory(array.nbytes + offset)).address + offset)
            stream.copy(addresses[-1], array.ctypes.data, array.nbytes)
        ends = (addresses[0] + boxes.nbytes, addresses[1] + scores.nbytes)
        cuda.readable = list(zip(addresses, ends, strict=True))
        nms = stack.enter_context(Nms(cuda, kernels, *scores.shape, candidates, detections, threads=threads))
        nms.launch(stream, *addresses, score_threshold=score_threshold, iou_threshold=iou_threshold)
        return nms.read(downloaded(nms, stream), [(1, 1)] * len(boxes))


def downloaded(nms: Nms, stream) -> np.ndarray:
    output = np.empty(nms.output_bytes, np.uint8)
    stream.copy(output.ctypes.data, nms.output, nms.output_bytes)
    return output


def check(cuda: HostCuda, boxes: np.ndarray, scores: np.ndarray, **settings) -> list[Detections]:
    """The kernels' results, after they were compared with the reference's."""
    settings = SETTINGS | settings
    how = {name: settings.pop(name) for name in ("threads", "score_offset") if name in settings}
    found = run_nms(cuda, boxes, scores, **how, **settings)
    assert_all_equal(found, references(boxes, scores, **settings))
    return found


def references(boxes: np.ndarray, scores: np.ndarray, **settings) -> list[Detections]:
    return [nms(np.clip(boxes, 0, 1), scores, **settings) for boxes, scores in zip(boxes, scores, strict=True)]


def assert_all_equal(found: list[Detections], wanted: list[Detections]) -> None:
    for image_found, image_wanted in zip(found, wanted, strict=True):
        assert_equal(image_found, image_wanted)


SPECIAL_BOXES = np.array(
    [
        [np.nan, 0, 1, 1],
        [0, 0, 1, np.nan],
        [-np.inf, 0, np.inf, 1],
        [0.2, 0.2, 0.2, 0.2],
        [0.8, 0.8, 0.1, 0.1],  # inside out
        [0.8, 0.1, 0.1, 0.8],
        [-3, -3, -2, -2],  # outside the image
        [-0.0, 0.0, 2.0, 1e-30],
    ],
    np.float32,
)
SPECIAL_SCORES = np.array([np.nan, np.inf, -np.inf, -1, 0, 1e-42, 0.1, 0.5], np.float32)


def adversarial_case(rng: np.random.Generator, anchors: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 [anchors, 4] and [anchors, classes]: each of the kinds below is likely, alone and together."""
    boxes = random_boxes(rng, anchors, grid=rng.choice([None, 2, 4, 5, 7]))  # on a grid IoUs are at thresholds
    scores = rng.random((anchors, classes)).astype(np.float32)
    if rng.random() < 0.15:
        boxes[:] = boxes[0]
    if rng.random() < 0.3:
        boxes = boxes * np.float32(1.5) - np.float32(0.25)  # to be clipped
    if rng.random() < 0.3:
        where = rng.random(anchors) < 0.4
        boxes[where] = SPECIAL_BOXES[rng.integers(0, len(SPECIAL_BOXES), where.sum())]
    if rng.random() < 0.4:
        scores = np.round(scores * rng.integers(1, 4)) / 4  # many equal
    if rng.random() < 0.1:
        scores[:] = rng.choice([0.0, 0.1, 0.6])  # all equal; 0: none is above the threshold
    if rng.random() < 0.3:
        where = rng.random(scores.shape) < rng.choice([0.1, 0.9])
        scores[where] = SPECIAL_SCORES[rng.integers(0, len(SPECIAL_SCORES), where.sum())]
    return boxes, scores.astype(np.float32)


def adversarial_batch(seed: int, batch: int = 8) -> tuple[np.ndarray, np.ndarray, dict]:
    rng = np.random.default_rng(seed)
    anchors, classes = int(rng.choice([1, 2, 7, 31, 33, 70, 130])), int(rng.choice([1, 1, 2, 5]))
    boxes, scores = zip(*[adversarial_case(rng, anchors, classes) for _ in range(batch)], strict=True)
    settings = {
        "score_threshold": float(rng.choice([0.0, 0.1, 0.5])),
        "iou_threshold": float(rng.choice([0.0, 0.2, 0.25, 1 / 3, 0.5, 1.0])),
        "candidates": int(rng.choice([1, 3, 33, 1000])),
        "detections": int(rng.choice([1, 7, 40, 1000])),
    }
    return np.stack(boxes), np.stack(scores), settings


@pytest.mark.parametrize("part", range(10))
def test_nms_on_ten_thousand_adversarial_cases(part: int) -> None:
    for seed in range(125 * part, 125 * (part + 1)):  # batches of 8
        boxes, scores, settings = adversarial_batch(seed)
        wanted = references(boxes, scores, **settings)
        for order in ORDERS:
            found = run_nms(HostCuda(order=order), boxes, scores, threads=(32, 64, 96)[seed % 3], **settings)
            assert_all_equal(found, wanted)


MUTATIONS = {
    "IoU at the threshold": [("both) > iou_threshold", "both) >= iou_threshold")],
    "order of IoU's sum": [
        ("__fsub_rn(__fadd_rn(area(a), area(b)), intersection)", "__fadd_rn(area(a), area(b) - intersection)")
    ],
    "score at the threshold": [("(score[k] > score_threshold)", "(score[k] >= score_threshold)")],
    "equal scores": [("(unsigned)~class_anchor", "class_anchor"), ("return ~(unsigned)key", "return (unsigned)key")],
    "candidates": [("least_wanted(keys, count, limit,", "least_wanted(keys, count, limit + 1,")],
    "all keys of a digit": [("found[2] = reached == wanted", "found[2] = reached >= wanted")],
    "a warp's place among the kept": [
        ("shared.unsorted[start + __popc(lanes &", "shared.unsorted[start + __popc(ALL &")
    ],
    "order of two runs": [("if (run != i / WARP * WARP) rank", "if (run < i / WARP * WARP) rank")],
    "the dropped drop": [("open && !(mine_overlaps & stays)", "open && !mine_overlaps")],
    "boxes of later tiles": [("drop = overlap(box[tile + __ffs(left) - 1]", "drop = overlap(box[tile]")],
    "lanes of one class": [("first_lane = lane == __ffs(lanes[k]) - 1", "first_lane = lane == 0")],
    "NaN in a box": [(" || box.w != box.w", "")],
    "boxes beyond the image": [("value > 1 ? 1 : value", "value")],
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_cases_find_an_error(name: str) -> None:
    source = KERNEL_SOURCE
    for right, wrong in MUTATIONS[name]:
        assert source.count(right) == 1
        source = source.replace(right, wrong)

    def differs(seed: int) -> bool:
        boxes, scores, settings = adversarial_batch(seed)
        found = run_nms(HostCuda(), boxes, scores, source=source, **settings)
        return any(
            not np.array_equal(getattr(a, field), getattr(b, field))
            for a, b in zip(found, references(boxes, scores, **settings), strict=True)
            for field in ("boxes_xyxy", "scores", "labels")
        )

    assert any(differs(seed) for seed in range(100))


BARRIER = "__syncthreads();"


@pytest.mark.long
@pytest.mark.parametrize("index", range(KERNEL_SOURCE.count(BARRIER)))
def test_no_barrier_can_be_left_out(index: int) -> None:
    """Without it the results are wrong in one of the orders, or the process crashes, or it never ends."""
    HostCuda().module(KERNEL_SOURCE, KERNELS)  # skips where nothing can be compiled
    code = f"from tests.runtime.cuda.test_kernels import run_without_barrier; run_without_barrier({index})"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[3], capture_output=True, timeout=BARRIER_SECONDS
    )
    assert run.returncode in (WRONG, -signal.SIGSEGV, -signal.SIGALRM), run.stderr.decode()


WRONG = 42
LAUNCH_SECONDS = 20  # instead of milliseconds: it never ends
BARRIER_SECONDS = 1200  # for up to 78 runs and the compilation


def run_without_barrier(index: int) -> None:
    """In a separate process, which ends with `WRONG`."""
    parts = KERNEL_SOURCE.split(BARRIER)
    source = BARRIER.join(parts[: index + 1]) + BARRIER.join(parts[index + 1 :])
    rng = np.random.default_rng(3)
    large = random_boxes(rng, 700)[None], rng.random((1, 700, 2)).astype(np.float32) ** 4
    limits = {"score_threshold": 0.0, "iou_threshold": 0.5, "candidates": 200, "detections": 90}
    for boxes, scores, settings in [*map(adversarial_batch, range(25)), (*large, limits)]:
        wanted = references(boxes, scores, **settings)
        for order in ORDERS:
            signal.alarm(LAUNCH_SECONDS)
            try:
                found = run_nms(HostCuda(order=order), boxes, scores, source=source, threads=96, **settings)
                assert_all_equal(found, wanted)
            except (AssertionError, CudaError):
                sys.exit(WRONG)


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
    launch, shared = HostStream.launch, []

    def noted(*args, shared_bytes: int = 0) -> None:
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
