"""Where the GPU's pipeline takes frames from: the processor's memory, the GPU's, and video decoders'."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest

from ssd_edge.errors import UsageError
from ssd_edge.images import ImageError
from ssd_edge.runtime.backends.base import Detector
from ssd_edge.runtime.backends.gpu_detector import GpuDetector
from ssd_edge.runtime.colours import BT601, BT709
from ssd_edge.runtime.cuda.device_frames import Nv12Frame
from tests.fakes.device_arrays import DecodedPlane, OnGpu
from tests.fakes.host_cuda import HostCuda, HostStream
from tests.fakes.host_engine import HostEngine
from tests.fakes.lazy_cuda import LazyCuda
from tests.runtime.backends.gpu_runs import CUDAS, engine_of, nv12_of, random_frames
from tests.runtime.equal_detections import assert_all_equal


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of each copy that is put on a stream."""
    sizes: list[int] = []
    copy = HostStream.copy

    def noted(stream: HostStream, target: int, source: int, size: int) -> None:
        sizes.append(size)
        copy(stream, target, source, size)

    monkeypatch.setattr(HostStream, "copy", noted)
    return sizes


def test_frames_on_the_gpu_are_read_where_they_are(
    cpu: Detector, open_gpu: Callable[..., GpuDetector], copied: list[int]
) -> None:
    detector = open_gpu(LazyCuda())
    frames = random_frames((48, 64), (33, 65))
    expected = cpu(frames)
    for gap in (0, 17):
        given = [OnGpu(frame, gap) for frame in frames]
        for _ in range(5):
            assert_all_equal(detector(given), expected)
            assert set(copied) == {4 * (cpu.card.detections * (16 + 4 + 4) + 4)}  # results down; nothing went up
    copied.clear()
    assert_all_equal(detector([given[0], frames[1]]), expected)  # one there, one here
    assert copied == [33 * 65 * 3 // 256 * 256 + 256]  # results are copied within the graph


@pytest.mark.parametrize(
    ("integrated", "mapped", "variable", "in_place"),
    [
        (True, None, None, True),
        (True, None, "", True),
        (True, None, "copied", False),
        (True, None, "mapped", True),
        (True, False, "mapped", False),
        (True, True, "copied", True),
        (False, True, None, False),  # its reads would cross a bus
        (False, None, "mapped", False),
    ],
)
@pytest.mark.parametrize("slots", [1, 2])
def test_where_the_gpu_reads_frames(
    integrated: bool,
    mapped: bool | None,
    variable: str | None,
    in_place: bool,
    slots: int,
    cpu: Detector,
    open_gpu: Callable[..., GpuDetector],
    copied: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if variable is None:
        monkeypatch.delenv("SSD_EDGE_FRAMES", raising=False)
    else:
        monkeypatch.setenv("SSD_EDGE_FRAMES", variable)
    cuda = LazyCuda(integrated=integrated)
    detector = open_gpu(cuda, slots=slots, mapped=mapped)
    for seed in range(4):
        frames = random_frames((48, 64), (33, 65), seed=seed)
        assert_all_equal(detector(frames), cpu(frames))
    size = 48 * 64 * 3 + 33 * 65 * 3 // 256 * 256 + 256
    assert copied.count(size) == (0 if in_place else 4)
    staged = [memory for memory in cuda.pinned if len(memory.array) == size]
    assert [memory.mapped for memory in staged] == [in_place] * slots


def test_an_unknown_place_for_frames_frees_the_engine(cpu: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSD_EDGE_FRAMES", "pinned")
    engine = HostEngine(cpu.infer, (32, 32))
    with pytest.raises(UsageError, match="SSD_EDGE_FRAMES=pinned: expected mapped or copied, or nothing"):
        GpuDetector(engine, cpu.card)
    assert engine.cuda.allocated == 0


@pytest.mark.parametrize("slots", [1, 2])
def test_what_a_decoder_still_writes_is_waited_for(
    slots: int, cpu: Detector, open_gpu: Callable[..., GpuDetector]
) -> None:
    cuda = LazyCuda()
    detector = open_gpu(cuda, slots=slots)
    with cuda.stream() as decoder:
        expected = []
        for seed in range(6):
            (frame,) = random_frames((48, 64), seed=seed)
            planes = nv12_of(frame)
            expected.append(cpu([cv2.cvtColor(planes, cv2.COLOR_YUV2BGR_NV12)]))
            chroma = planes[48:].reshape(24, 32, 2)
            detector.submit([Nv12Frame(DecodedPlane(planes[:48], decoder), DecodedPlane(chroma, decoder))])
        for wanted in expected:
            assert_all_equal(detector.collect(), wanted)
    assert engine_of(detector).captures == slots


def test_frames_on_the_gpu_are_held_until_they_were_read(cpu: Detector, open_gpu: Callable[..., GpuDetector]) -> None:
    detector = open_gpu(LazyCuda())
    (frame,) = random_frames((48, 64))
    given = OnGpu(frame)
    alive = weakref.ref(given)
    detector.submit([given])
    del given
    gc.collect()
    assert alive() is not None
    assert_all_equal(detector.collect(), cpu([frame]))
    gc.collect()
    assert alive() is None


def in_one_array(planes: np.ndarray) -> Nv12Frame:
    return Nv12Frame(OnGpu(planes, 5))


def in_two_arrays(planes: np.ndarray) -> Nv12Frame:
    height = len(planes) * 2 // 3
    return Nv12Frame(OnGpu(planes[:height], 5), OnGpu(planes[height:].reshape(height // 2, -1, 2), 3))


@pytest.mark.parametrize("make_cuda", CUDAS)
@pytest.mark.parametrize("give", [in_one_array, in_two_arrays])
def test_nv12_is_detected_in_as_its_bgr_is(
    make_cuda: Callable[[], HostCuda],
    give: Callable[[np.ndarray], Nv12Frame],
    cpu: Detector,
    open_gpu: Callable[..., GpuDetector],
) -> None:
    frames = random_frames((48, 64), (96, 50), (48, 64))
    planes = [nv12_of(frame) for frame in frames]
    expected = cpu([cv2.cvtColor(each, cv2.COLOR_YUV2BGR_NV12) for each in planes])
    assert min(map(len, expected)) > 0
    detector = open_gpu(make_cuda(), slots=1)
    given = [give(each) for each in planes]
    for _ in range(3):  # step by step, captured, replayed
        assert_all_equal(detector(given), expected)
    mixed, expected = [frames[0], given[1], OnGpu(frames[2])], [*cpu(frames[:1]), expected[1], *cpu(frames[2:])]
    for _ in range(3):
        assert_all_equal(detector(mixed), expected)
    assert engine_of(detector).captures == 1


def test_other_chroma_or_colours_of_the_same_luma(open_gpu: Callable[..., GpuDetector]) -> None:
    planes = nv12_of(*random_frames((48, 64), seed=3))
    luma, chroma, other = OnGpu(planes[:48]), OnGpu(planes[48:]), OnGpu(255 - planes[48:])
    frames = [Nv12Frame(luma, *rest) for rest in ((chroma, BT601), (chroma, BT709), (other, BT601))]
    expected = [open_gpu()([frame]) for frame in frames]
    assert len({found.scores.tobytes() for (found,) in expected}) == 3
    detector = open_gpu(slots=1)
    for _ in range(3):
        for frame, wanted in zip(frames, expected, strict=True):
            assert_all_equal(detector([frame]), wanted)
    assert engine_of(detector).captures == 1


def test_nv12_is_not_for_the_processor(cpu: Detector) -> None:
    given: Any = in_one_array(nv12_of(*random_frames((48, 64))))
    with pytest.raises(ImageError, match="frame 0 is a Nv12Frame; expected a NumPy array"):
        cpu([given])


def test_frames_need_not_lie_in_one_piece(cpu: Detector, open_gpu: Callable[..., GpuDetector]) -> None:
    (frame,) = random_frames((48, 64))
    for view in (frame[::-1, ::-1], frame[:, 10:30], frame.transpose(1, 0, 2), frame[..., ::-1]):
        assert_all_equal(open_gpu()([view]), cpu([np.ascontiguousarray(view)]))


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "frame 1 is float32"),
        (np.zeros((0, 4, 3), np.uint8), "frame 1 is uint8"),
        (np.zeros((4, 4), np.uint8), "frame 1 is uint8"),
        (OnGpu(np.zeros((4, 4, 3), np.uint8), kind="<f4"), "expected uint8"),
        (Nv12Frame(OnGpu(np.zeros((3, 3), np.uint8))), "3×2; its sides have to be even"),
        (Nv12Frame(np.zeros((3, 2), np.uint8)), "the luma of an NV12 frame is a ndarray in the processor's memory"),
    ],
)
def test_wrong_frames_are_refused(
    frame: Any, message: str, cpu: Detector, open_gpu: Callable[..., GpuDetector]
) -> None:
    detector = open_gpu()
    good = random_frames((48, 64))
    with pytest.raises(ImageError, match=message):
        detector([*good, frame])
    assert_all_equal(detector(good), cpu(good))  # nothing is left under way


def test_a_frame_on_another_gpu(open_gpu: Callable[..., GpuDetector], monkeypatch: pytest.MonkeyPatch) -> None:
    detector = open_gpu()
    monkeypatch.setattr(HostCuda, "device_of", lambda self, address: 1)
    with pytest.raises(ImageError, match="GPU 1, and the detector runs on GPU 0"):
        detector([OnGpu(np.zeros((4, 4, 3), np.uint8))])
