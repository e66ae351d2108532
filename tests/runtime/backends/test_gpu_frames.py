"""Where the GPU's pipeline takes frames from: the processor's memory, the GPU's, and video decoders'."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ssd_edge.errors import UsageError
from ssd_edge.images import ImageError
from ssd_edge.runtime.backends import base
from ssd_edge.runtime.backends.base import Detector
from ssd_edge.runtime.backends.gpu_detector import GpuDetector
from ssd_edge.runtime.colours import BT601, BT709, BT709_FULL
from ssd_edge.runtime.cuda.device_frames import Nv12Frame
from ssd_edge.runtime.pixels import GpuPicture, Pixels, YuvPlanes
from ssd_edge.runtime.preprocess import preprocess
from tests.fakes.device_arrays import DecodedPlane, OnGpu
from tests.fakes.host_cuda import HostCuda, HostStream
from tests.fakes.host_engine import HostEngine
from tests.fakes.lazy_cuda import LazyCuda
from tests.runtime.backends.gpu_runs import CUDAS, engine_of, nv12_of, random_frames
from tests.runtime.equal_detections import assert_all_equal


@pytest.fixture(autouse=True)
def exact_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor's colours in the kernel's fixed point: OpenCV's have 10 bits, or are float, by the processor."""

    def exact(frame: Any, size_hw: tuple[int, int], *, out: np.ndarray) -> np.ndarray:
        if not isinstance(frame, YuvPlanes):
            return preprocess(frame, size_hw, out=out)
        height, width = frame.size_hw
        rows, columns = np.arange(height)[:, None], np.arange(width)
        per_row, per_column = (
            -(-whole // part) for whole, part in zip(frame.size_hw, frame.chroma[0].shape, strict=False)
        )
        chroma = np.dstack(frame.chroma)[rows // per_row, columns // per_column]
        y, u, v = np.dstack([frame.luma, chroma]).astype(np.int64).transpose(2, 0, 1)
        colours = frame.colours
        y, u, v = colours.luma * np.maximum(y - colours.black, 0), u - 128, v - 128
        bgr = y + colours.u_to_b * u, y + colours.u_to_g * u + colours.v_to_g * v, y + colours.v_to_r * v
        return preprocess((np.dstack(bgr) + 2**19 >> 20).clip(0, 255).astype(np.uint8), size_hw, out=out)

    monkeypatch.setattr(base, "preprocess", exact)


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


def in_one_array(planes: YuvPlanes) -> Nv12Frame:
    luma, (chroma,) = planes.luma, planes.chroma
    return Nv12Frame(OnGpu(np.concatenate([luma, chroma.reshape(-1, luma.shape[1])]), 5))


def in_two_arrays(planes: YuvPlanes) -> Nv12Frame:
    return Nv12Frame(OnGpu(planes.luma, 5), OnGpu(planes.chroma[0], 3))


def as_decoded(planes: YuvPlanes) -> GpuPicture:
    return GpuPicture(in_two_arrays(planes), planes.size_hw, lambda: planes)


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


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("slots", [1, 2])
def test_what_a_decoder_still_writes_is_waited_for(
    slots: int, named: bool, cpu: Detector, open_gpu: Callable[..., GpuDetector]
) -> None:
    """By its stream, where that is named: so the work of earlier batches is not waited for."""
    cuda = LazyCuda()
    detector = open_gpu(cuda, slots=slots)
    with cuda.stream() as decoder:
        expected, decoded = [], []
        for seed in range(6):
            (frame,) = random_frames((48, 64), seed=seed)
            planes = nv12_of(frame)
            expected.append(cpu([planes]))
            luma, chroma = DecodedPlane(planes.luma, decoder), DecodedPlane(planes.chroma[0], decoder)
            decoded += [luma.decoded, chroma.decoded]  # what the decoder reads when its stream runs
            detector.submit([Nv12Frame(luma, chroma, stream=decoder.handle if named else None)])
            assert len(engine_of(detector).runs) == (max(0, seed + 1 - slots) if named else seed)
        for wanted in expected:
            assert_all_equal(detector.collect(), wanted)
    assert engine_of(detector).captures == slots


@pytest.mark.parametrize(("pixels_of", "give"), [(np.asarray, OnGpu), (nv12_of, as_decoded)])
def test_frames_on_the_gpu_are_held_until_they_were_read(
    pixels_of: Callable[..., Any], give: Callable[..., Any], cpu: Detector, open_gpu: Callable[..., GpuDetector]
) -> None:
    """A decoder may write another picture to the memory of one that nobody holds."""
    detector = open_gpu(LazyCuda())
    frame = pixels_of(*random_frames((48, 64)))
    given = give(frame)
    alive = weakref.ref(given)
    detector.submit([given])
    del given
    gc.collect()
    assert alive() is not None
    assert_all_equal(detector.collect(), cpu([frame]))
    gc.collect()
    assert alive() is None


def in_memory(planes: YuvPlanes) -> YuvPlanes:
    return planes


def in_planes(planes: YuvPlanes) -> YuvPlanes:
    """As FFmpeg's decoders give them: rows that are parts of longer ones, u and v apart."""

    def padded(plane: np.ndarray) -> np.ndarray:
        return np.pad(plane, ((0, 0), (0, 13)))[:, : plane.shape[1]]

    u, v = (padded(planes.chroma[0][..., index]) for index in (0, 1))
    return YuvPlanes(padded(planes.luma), (u, v), planes.colours)


@pytest.mark.parametrize("make_cuda", CUDAS)
@pytest.mark.parametrize("give", [in_one_array, in_two_arrays, as_decoded, in_memory, in_planes])
def test_nv12_is_detected_in_as_on_the_processor(
    make_cuda: Callable[[], HostCuda],
    give: Callable[[YuvPlanes], Any],
    cpu: Detector,
    open_gpu: Callable[..., GpuDetector],
) -> None:
    frames = random_frames((48, 64), (96, 50), (48, 64))
    planes = [nv12_of(frame) for frame in frames]
    expected = cpu(planes)
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
    luma, chroma, other = OnGpu(planes.luma), OnGpu(planes.chroma[0]), OnGpu(255 - planes.chroma[0])
    frames = [Nv12Frame(luma, *rest) for rest in ((chroma, BT601), (chroma, BT709), (other, BT601))]
    expected = [open_gpu()([frame]) for frame in frames]
    assert len({found.scores.tobytes() for (found,) in expected}) == 3
    detector = open_gpu(slots=1)
    for _ in range(3):
        for frame, wanted in zip(frames, expected, strict=True):
            assert_all_equal(detector([frame]), wanted)
    assert engine_of(detector).captures == 1


@pytest.mark.parametrize("size_hw", [(1, 1), (37, 53), (64, 64)])
@pytest.mark.parametrize("shrink", [(2, 2), (1, 2), (2, 1), (1, 1)])  # 4:2:0, 4:2:2, 4:4:0, 4:4:4
def test_planes_of_any_kind_go_up_as_they_are(
    size_hw: tuple[int, int],
    shrink: tuple[int, int],
    cpu: Detector,
    open_gpu: Callable[..., GpuDetector],
    copied: list[int],
) -> None:
    (luma, u, v) = (frame[..., 0] for frame in random_frames(size_hw, size_hw, size_hw, seed=5))
    planes = YuvPlanes(luma, (u[:: shrink[0], :: shrink[1]], v[:: shrink[0], :: shrink[1]]), BT709_FULL)
    detector = open_gpu()
    batches: tuple[list[Pixels], ...] = ([planes], [planes, *random_frames((48, 64))], [planes, planes])
    for frames in batches:
        assert_all_equal(detector(frames), cpu(frames))
    assert copied[0] == -(-(luma.size + 2 * planes.chroma[0].size) // 256) * 256


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
