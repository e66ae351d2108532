"""`open_detector` and what every backend shares, on a model whose answers can be told by eye."""

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from ssd_edge.errors import MissingDependencyError, ModelFileError, SsdEdgeError, UsageError
from ssd_edge.images import ImageError
from ssd_edge.runtime.detector import open_detector

RED = (0, 0, 255)  # BGR


def frame_with_red_cell(height: int = 64, width: int = 128) -> np.ndarray:
    """Black, but for the cell in the second row, third column of the 4×4 cells."""
    frame = np.zeros((height, width, 3), np.uint8)
    frame[height // 4 : height // 2, width // 2 : width * 3 // 4] = RED
    return frame


def test_boxes_are_in_pixels_of_the_frame(model_path: Path) -> None:
    with open_detector(model_path) as detector:
        (found,) = detector([frame_with_red_cell()])
    assert found.labels.tolist() == [0]
    assert found.boxes_xyxy.tolist() == [[64, 16, 96, 32]]
    assert 0.8 < found.scores[0] <= 1  # the cell's rim is blended with black


def test_frames_of_a_batch_may_differ_in_size(model_path: Path) -> None:
    blank = np.zeros((1, 1, 3), np.uint8)
    with open_detector(model_path) as detector:
        found = detector([frame_with_red_cell(), blank, frame_with_red_cell(640, 320)])
        assert [len(item) for item in found] == [1, 0, 1]
        assert found[2].boxes_xyxy.tolist() == [[160, 160, 240, 320]]
        (alone,) = detector([frame_with_red_cell()])  # a smaller batch after a larger one
        assert alone.boxes_xyxy.tolist() == found[0].boxes_xyxy.tolist()
        assert detector([]) == []


@pytest.mark.parametrize(("threads", "parallel", "slots"), [(2, None, 3), (3, 2, 2), (1, None, 2), (2, 8, 2)])
def test_batches_under_way_give_what_a_call_does(
    model_path: Path, threads: int, parallel: int | None, slots: int
) -> None:
    frames = [frame_with_red_cell(128 + 16 * index, 64) for index in range(12)]
    with open_detector(model_path) as alone, open_detector(model_path, threads=threads, parallel=parallel) as detector:
        assert detector.slots == slots
        told = threading.Semaphore(0)
        detector.on_done = told.release
        for frame in frames:
            detector.submit([frame])
        for frame in frames:
            assert told.acquire(timeout=10)
            (found,), (expected,) = detector.collect(), alone([frame])
            assert np.array_equal(found.boxes_xyxy, expected.boxes_xyxy)
            assert detector.timings.infer_ms > 0
        assert detector.wait()
        detector.submit([])
        assert detector.collect() == []
        with pytest.raises(SsdEdgeError, match="nothing to collect"):
            detector.collect()
        detector.submit(frames)  # and nobody collects it
    with pytest.raises(SsdEdgeError, match="closed"):
        detector.submit(frames)
    with pytest.raises(SsdEdgeError, match="closed"):
        detector.collect()


def test_an_error_under_way_comes_where_its_batch_is_collected(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_detector(model_path, threads=2, parallel=None) as detector:
        with pytest.raises(ImageError, match="frame 0"):
            detector.submit([np.zeros((4, 4), np.uint8)])
        infer, release = detector.infer, threading.Event()

        def fails_without_red(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            release.wait(10)
            if not images.any():
                raise RuntimeError("out of memory")
            return infer(images)

        monkeypatch.setattr(detector, "infer", fails_without_red)
        for frame in (frame_with_red_cell(), np.zeros((8, 8, 3), np.uint8), frame_with_red_cell()):
            detector.submit([frame])
        assert not detector.wait(0.01)
        release.set()
        assert detector.wait(10)
        assert len(detector.collect()[0]) == 1
        with pytest.raises(RuntimeError, match="out of memory"):
            detector.collect()
        assert len(detector.collect()[0]) == 1


def test_infer_is_the_network_alone(model_path: Path) -> None:
    images = np.zeros((2, 32, 32, 3), np.uint8)
    images[1, 8:16, 16:24] = 255
    with open_detector(model_path) as detector:
        boxes, scores = detector.infer(images)
    assert (boxes.shape, scores.shape) == ((2, 16, 4), (2, 16, 3))
    assert boxes[1, 6].tolist() == [0.5, 0.25, 0.75, 0.5]
    assert scores[1, 6].tolist() == [1, 1, 1]
    assert scores.sum() == 3


def test_timings_are_of_the_last_call(model_path: Path) -> None:
    with open_detector(model_path) as detector:
        assert detector.timings.total_ms == 0
        detector([frame_with_red_cell()])
        timings = detector.timings
    assert min(timings.preprocess_ms, timings.infer_ms, timings.nms_ms) > 0
    assert timings.total_ms == pytest.approx(timings.preprocess_ms + timings.infer_ms + timings.nms_ms)


def test_score_threshold_overrides_the_cards(model_path: Path) -> None:
    grey = np.full((8, 8, 3), 102, np.uint8)  # scores of 0.4 in all 16 × 3
    with open_detector(model_path) as by_card, open_detector(model_path, score_threshold=0.3) as lower:
        assert (by_card.score_threshold, lower.score_threshold) == (0.5, 0.3)
        assert [len(by_card([grey])[0]), len(lower([grey])[0])] == [0, 10]  # the card's `detections`


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_wrong_frames_are_refused(model_path: Path, frame: np.ndarray) -> None:
    with open_detector(model_path) as detector, pytest.raises(ImageError, match=r"frame 1 .*to_bgr8"):
        detector([frame_with_red_cell(), frame])


def test_use_after_close(model_path: Path) -> None:
    with open_detector(model_path) as detector:
        pass
    detector.close()
    with pytest.raises(SsdEdgeError, match="closed"):
        detector([frame_with_red_cell()])


def test_wrong_options(model_path: Path) -> None:
    with pytest.raises(UsageError, match="0 threads"):
        open_detector(model_path, threads=0)
    with pytest.raises(UsageError, match="0 batches"):
        open_detector(model_path, parallel=0)
    with pytest.raises(UsageError, match=r"score threshold 1\.5"):
        open_detector(model_path, score_threshold=1.5)
    with pytest.raises(UsageError, match="--device cuda: ONNX files run on the CPU"):
        open_detector(model_path, device="cuda")
    open_detector(model_path, device="cpu").close()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.onnx", "no model file"),
        ("missing.pt", "no model file"),
        ("folder.onnx", "no model file"),
        ("a.engine", "no readable card"),
        ("a.txt", r"expected \.onnx"),
        ("text.onnx", "cannot load"),
        ("empty.onnx", "cannot load|no model card"),
    ],
)
def test_files_that_are_no_models(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "a.engine").touch()
    (tmp_path / "text.onnx").write_text("this is no protobuf")
    (tmp_path / "empty.onnx").touch()
    with pytest.raises(ModelFileError, match=message) as caught:
        open_detector(tmp_path / name)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metadata": {}}, "no model card"),
        ({"metadata": {"ssd_edge_card": "{"}}, "not a model card"),
        ({"card": {"height": 64}}, "64×32"),
        ({"card": {"class_names": ("a", "b"), "category_ids": (1, 2)}}, "2 classes"),
        ({"input_name": "pixels"}, r"inputs \['pixels'\]"),
        ({"output_name": "logits"}, r"'logits'"),
        ({"image_type": TensorProto.FLOAT}, r"tensor\(float\)"),
        ({"batch": 1}, "batch dynamic"),
        ({"broken_boxes": True}, r"boxes \[1, 8, 4\] and scores \[1, 16, 3\]"),
    ],
)
def test_onnx_files_that_break_the_contract(
    make_model: Callable[..., Path], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelFileError, match=message) as caught:
        open_detector(make_model("bad.onnx", **changes))
    assert "bad.onnx" in str(caught.value)
    assert "export" in str(caught.value)


def test_checkpoint_without_torch_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.pt").touch()
    monkeypatch.delitem(sys.modules, "ssd_edge.runtime.backends.torch", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)  # an import of it raises ModuleNotFoundError
    with pytest.raises(MissingDependencyError, match=r"pip install .\.\[train\]"):
        open_detector(tmp_path / "a.pt")
