"""The GPU's pipeline on the processor, with the kernels that a GPU runs, against the detector of the processor."""

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ssd_edge.bundled import bundled_model
from ssd_edge.detections import Detections
from ssd_edge.errors import SsdEdgeError, UsageError
from ssd_edge.images import ImageError
from ssd_edge.runtime.backends import gpu_detector
from ssd_edge.runtime.backends.base import Detector
from ssd_edge.runtime.backends.gpu_detector import GpuDetector
from ssd_edge.runtime.cuda.base import Stream
from ssd_edge.runtime.cuda.device_frames import Nv12Frame
from ssd_edge.runtime.cuda.dlpack import DLPACK_CUDA
from ssd_edge.runtime.cuda.errors import CudaFatalError, CudaMemoryError
from ssd_edge.runtime.cuda.kernels import BT601, BT709
from ssd_edge.runtime.detector import open_detector
from ssd_edge.runtime.stream import run as stream
from ssd_edge.runtime.stream.run import StreamConfig, run_stream
from tests.fakes.host_cuda import GARBAGE, HostCuda, HostStream
from tests.fakes.host_engine import HostEngine
from tests.fakes.lazy_cuda import LazyCuda

CUDAS = (HostCuda, LazyCuda, lambda: LazyCuda(integrated=True))


@pytest.fixture
def cpu(model_path: Path) -> Iterator[Detector]:
    """The reference, which is also what engines compute: cells of red, green and blue."""
    with open_detector(model_path, threads=1) as detector:
        yield detector


@pytest.fixture
def open_gpu(cpu: Detector) -> Iterator[Callable[..., GpuDetector]]:
    """Make a detector with an engine that computes what `cpu` does; nothing of it may be left on the GPU."""
    opened = []

    def make(cuda: HostCuda | None = None, batch: tuple[int, int] = (1, 4), **options: Any) -> GpuDetector:
        engine = HostEngine(cpu.infer, (cpu.card.height, cpu.card.width), cuda=cuda, batch=batch)
        opened.append(GpuDetector(engine, cpu.card, **options))
        return opened[-1]

    yield make
    for detector in opened:
        detector.close()
        assert engine_of(detector).cuda.allocated == 0


def engine_of(detector: GpuDetector) -> HostEngine:
    engine = detector.engine
    assert isinstance(engine, HostEngine)
    return engine


def random_frames(*sizes_hw: tuple[int, int], seed: int = 0) -> list[np.ndarray]:
    """Coloured cells of all scores, so that a frame in the place of another shows."""
    rng = np.random.default_rng(seed)
    frames = []
    for height, width in sizes_hw:
        cells = rng.integers(0, 256, (4, 4, 3), np.uint8)
        frames.append(np.ascontiguousarray(cells[np.arange(height) * 4 // height][:, np.arange(width) * 4 // width]))
    return frames


def assert_equal(got: list[Detections], expected: list[Detections]) -> None:
    """Bit by bit: kernels equal the processor's, and the network is the same."""
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_array_equal(one.scores, other.scores)
        np.testing.assert_array_equal(one.boxes_xyxy, other.boxes_xyxy)


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
                assert_equal(detector([small, large]), expected)
            assert engine.captures == 2  # one for each slot


@pytest.mark.parametrize("make_cuda", CUDAS)
@pytest.mark.parametrize("slots", [1, 2, 3])
def test_batches_of_any_size_are_split_and_padded(
    make_cuda: Callable[[], HostCuda], slots: int, cpu: Detector, open_gpu: Callable[..., GpuDetector]
) -> None:
    detector = open_gpu(make_cuda(), (2, 3), slots=slots)
    frames = random_frames((64, 128), (1, 1), (40, 30), (32, 32), (64, 128), (7, 300), (64, 128))
    for _ in range(4):
        for count in (7, 1, 0, 3):
            assert_equal(detector(frames[:count]), cpu(frames[:count]))
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
        assert_equal(one, other)
    with pytest.raises(SsdEdgeError, match="nothing to collect; submit frames first"):
        detector.collect()


def test_the_next_upload_does_not_wait_for_the_network(open_gpu: Callable[..., GpuDetector]) -> None:
    for slots, streams in ((2, 2), (1, 1)):
        detector = open_gpu(LazyCuda(), slots=slots)
        for seed in range(slots):
            detector.submit(random_frames((48, 64), seed=seed))
        assert engine_of(detector).runs == []
        assert len({detector._copies, detector.engine.stream}) == streams
        detector._copies.synchronize()  # uploads of all slots are behind nothing else
        assert len(engine_of(detector).runs) == (0 if slots == 2 else 1)


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
        assert_equal(one, other)
    assert (engine.captures, engine.enqueued) == (len(sizes) * slots, warm)  # all were replayed


def test_the_second_batch_of_a_size_is_captured(cpu: Detector, open_gpu: Callable[..., GpuDetector]) -> None:
    detector = open_gpu(batch=(2, 4), slots=1)
    engine = engine_of(detector)
    seen = []
    for count in (3, 3, 3, 1, 1, 2, 2, 3):  # 1 and 2 run in batches of 2, and differ in what NMS reads
        frames = random_frames(*[(40, 30)] * count, seed=len(seen))
        assert_equal(detector(frames), cpu(frames))
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
            assert_equal(detector.collect(), expected[submitted.pop(0)])
    assert_equal(detector.collect(), expected[0.02])
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
            assert_equal(detector(frames), cpu(frames))
    assert_equal(detector(frames[:1]), cpu(frames[:1]))  # an engine that refuses has no use for its graphs any more
    assert (engine.captures, engine.enqueued) == (2, 3 + 8 + gpu_detector.FAILED_CAPTURES + 1)
    assert [record.message for record in caplog.records] == [
        "the detector runs without a CUDA graph: CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"
    ]
    assert not any(slot.graphs for slot in detector._slots)


def test_an_engine_that_fails_in_a_capture_leaves_the_stream_usable(
    cpu: Detector, open_gpu: Callable[..., GpuDetector], caplog: pytest.LogCaptureFixture
) -> None:
    detector = open_gpu(slots=1)
    frames = random_frames((48, 64))
    detector(frames)
    for _ in range(gpu_detector.FAILED_CAPTURES):
        engine_of(detector).fails = SsdEdgeError("the engine does not run: Cask")
        assert_equal(detector(frames), cpu(frames))
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
            assert_equal(detector(frames), cpu(frames))
    assert engine.captures == gpu_detector.FAILED_CAPTURES
    assert not caplog.records


def test_where_there_are_no_graphs(cpu: Detector, open_gpu: Callable[..., GpuDetector]) -> None:
    cuda = HostCuda()
    cuda.has_graphs = False
    detector = open_gpu(cuda)
    for _ in range(5):
        frames = random_frames((48, 64))
        assert_equal(detector(frames), cpu(frames))
    assert engine_of(detector).captures == 0


class OnGpu:
    """A frame, or a plane of one, that another library has on the GPU, with `gap` bytes between its rows."""

    def __init__(self, frame: np.ndarray, gap: int = 0, kind: str = "|u1") -> None:
        row_bytes = frame[0].size
        self.frame = frame
        self.shape = frame.shape
        self.rows = np.zeros((len(frame), row_bytes + gap), np.uint8)
        self.rows[:, :row_bytes] = frame.reshape(len(frame), -1)
        self.__cuda_array_interface__ = {
            "shape": frame.shape,
            "strides": (row_bytes + gap, *np.empty(frame.shape, np.uint8).strides[1:]),
            "typestr": kind,
            "data": (self.rows.ctypes.data, True),
            "version": 3,
        }


def test_frames_on_the_gpu_are_read_where_they_are(
    cpu: Detector, open_gpu: Callable[..., GpuDetector], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    copy = HostStream.copy
    monkeypatch.setattr(
        HostStream, "copy", lambda self, to, start, size: (sizes.append(size), copy(self, to, start, size))
    )
    detector = open_gpu(LazyCuda())
    frames = random_frames((48, 64), (33, 65))
    expected = cpu(frames)
    for gap in (0, 17):
        given = [OnGpu(frame, gap) for frame in frames]
        for _ in range(5):
            assert_equal(detector(given), expected)
            assert set(sizes) == {detector._nms.output_bytes}  # nothing went up
    sizes.clear()
    assert_equal(detector([given[0], frames[1]]), expected)  # one there, one here
    assert sizes == [33 * 65 * 3 // 256 * 256 + 256]  # results are copied within the graph


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
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if variable is None:
        monkeypatch.delenv("SSD_EDGE_FRAMES", raising=False)
    else:
        monkeypatch.setenv("SSD_EDGE_FRAMES", variable)
    uploads: list[int] = []
    copy = HostStream.copy
    monkeypatch.setattr(
        HostStream, "copy", lambda self, to, start, size: (uploads.append(size), copy(self, to, start, size))
    )
    detector = open_gpu(LazyCuda(integrated=integrated), slots=slots, mapped=mapped)
    for seed in range(4):
        frames = random_frames((48, 64), (33, 65), seed=seed)
        assert_equal(detector(frames), cpu(frames))
    size = 48 * 64 * 3 + 33 * 65 * 3 // 256 * 256 + 256
    assert uploads.count(size) == (0 if in_place else 4)
    staged = [slot._staging.mapped for slot in detector._slots]
    assert staged == [in_place] * slots


def test_an_unknown_place_for_frames_frees_the_engine(cpu: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSD_EDGE_FRAMES", "pinned")
    engine = HostEngine(cpu.infer, (32, 32))
    with pytest.raises(UsageError, match="SSD_EDGE_FRAMES=pinned: expected mapped or copied, or nothing"):
        GpuDetector(engine, cpu.card)
    assert engine.cuda.allocated == 0


class Decoded:
    """A plane as PyAV's: a decoder's own stream writes it, and it takes no stream of ours."""

    def __init__(self, plane: np.ndarray, decoder: Stream) -> None:
        self.decoded, self.surface = np.ascontiguousarray(plane), np.full_like(plane, GARBAGE)
        decoder.copy(self.surface.ctypes.data, self.decoded.ctypes.data, plane.nbytes)

    def __dlpack_device__(self) -> tuple[int, int]:
        return DLPACK_CUDA, 0

    def __dlpack__(self, *, stream: int | None = None) -> Any:
        if stream is not None:
            raise NotImplementedError("CUDA stream synchronization is not supported. Pass stream=None and synchronize")
        return self.surface.__dlpack__()


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
            detector.submit([Nv12Frame(Decoded(planes[:48], decoder), Decoded(chroma, decoder))])
        for wanted in expected:
            assert_equal(detector.collect(), wanted)
    assert engine_of(detector).captures == slots


def test_frames_on_the_gpu_are_held_until_they_were_read(cpu: Detector, open_gpu: Callable[..., GpuDetector]) -> None:
    detector = open_gpu(LazyCuda())
    (frame,) = random_frames((48, 64))
    detector.submit([OnGpu(frame)])
    assert_equal(detector.collect(), cpu([frame]))
    assert not any(slot.frames for slot in detector._slots)


def nv12_of(frame: np.ndarray) -> np.ndarray:
    """uint8 [H·3/2, W] of uint8 [H, W, 3] BGR."""
    height, width = frame.shape[:2]
    planes = cv2.cvtColor(frame, cv2.COLOR_BGR2YUV_I420)
    planes[height:] = planes[height:].reshape(2, -1).T.reshape(-1, width)  # u and v in turns
    return planes


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
        assert_equal(detector(given), expected)
    mixed, expected = [frames[0], given[1], OnGpu(frames[2])], [*cpu(frames[:1]), expected[1], *cpu(frames[2:])]
    for _ in range(3):
        assert_equal(detector(mixed), expected)
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
            assert_equal(detector([frame]), wanted)
    assert engine_of(detector).captures == 1


def test_nv12_is_not_for_the_processor(cpu: Detector) -> None:
    given: Any = in_one_array(nv12_of(*random_frames((48, 64))))
    with pytest.raises(ImageError, match="frame 0 is a Nv12Frame; expected a NumPy array"):
        cpu([given])


def test_frames_need_not_lie_in_one_piece(cpu: Detector, open_gpu: Callable[..., GpuDetector]) -> None:
    (frame,) = random_frames((48, 64))
    for view in (frame[::-1, ::-1], frame[:, 10:30], frame.transpose(1, 0, 2), frame[..., ::-1]):
        assert_equal(open_gpu()([view]), cpu([np.ascontiguousarray(view)]))


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
    assert_equal(detector(good), cpu(good))  # nothing is left under way


def test_a_frame_on_another_gpu(open_gpu: Callable[..., GpuDetector], monkeypatch: pytest.MonkeyPatch) -> None:
    detector = open_gpu()
    monkeypatch.setattr(HostCuda, "device_of", lambda self, address: 1)
    with pytest.raises(ImageError, match="GPU 1, and the detector runs on GPU 0"):
        detector([OnGpu(np.zeros((4, 4, 3), np.uint8))])


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
    assert not engine_of(detector).stream.work  # the memory of both can be used again
    with pytest.raises(SsdEdgeError, match="nothing to collect"):
        detector.collect()
    for _ in range(4):
        assert_equal(detector(frames), cpu(frames))


def test_a_fatal_error_in_a_capture_is_not_passed_over(open_gpu: Callable[..., GpuDetector]) -> None:
    detector = open_gpu(slots=1)
    detector(random_frames((48, 64)))
    engine_of(detector).fails = CudaFatalError("gone")
    with pytest.raises(CudaFatalError, match="gone"):
        detector(random_frames((48, 64)))


def test_a_call_between_submit_and_collect(cpu: Detector, open_gpu: Callable[..., GpuDetector]) -> None:
    detector = open_gpu()
    frames = random_frames((48, 64))
    detector.submit(frames)
    with pytest.raises(SsdEdgeError, match="not collected: 1; collect them before the detector is called"):
        detector(frames)
    assert_equal(detector.collect(), cpu(frames))


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
    assert_equal(detector(small), cpu(small))
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
                assert_equal(detector(batch), wanted)
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
