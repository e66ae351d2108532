"""What may depart from the source, and what is refused."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from ssd_edge.errors import GateFailedError
from ssd_edge.export.compare import Comparison, compare
from ssd_edge.images import load_image
from ssd_edge.runtime.backends.onnxruntime import OnnxDetector
from tests.detectors.tiny_detector import Tiny

OUTPUT = Path("m.onnx")


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", 1e-4), ("fp16", 2e-2)])
def test_raw_outputs_may_differ_by_the_tolerance_of_the_precision(precision: str, allowed: float) -> None:
    Comparison(precision, 8, allowed, allowed, 10, 0).check(OUTPUT)
    for boxes, scores in ((1.01 * allowed, 0.0), (0.0, 1.01 * allowed), (np.nan, 0.0), (0.0, np.nan)):
        with pytest.raises(GateFailedError, match=r"m\.onnx is not written: its boxes differ by"):
            Comparison(precision, 8, boxes, scores, 10, 10).check(OUTPUT)


def test_int8_has_to_find_half_of_the_detections() -> None:
    Comparison("int8", 8, 1.0, 1.0, 10, 5).check(OUTPUT)
    Comparison("int8", 8, 1.0, 1.0, 0, 0).check(OUTPUT)
    with pytest.raises(GateFailedError, match=r"of 10 objects that its source finds on 8 images .* it finds 4;"):
        Comparison("int8", 8, 0.0, 0.0, 10, 4).check(OUTPUT)


def test_a_file_is_equal_to_itself(tiny: Tiny, frames: list[NDArray[np.uint8]]) -> None:
    with OnnxDetector(tiny.onnx) as reference:
        found = compare(reference, tiny.onnx, onnx.load(tiny.onnx), frames, "fp32")
    assert (found.precision, found.images) == ("fp32", len(frames))
    assert (found.boxes_difference, found.scores_difference) == (0, 0)
    assert found.detections_equal == found.detections > 0
    assert f"{found.detections} of {found.detections} detections equal" in str(found)


@pytest.mark.parametrize("output", [0, 1])
def test_outputs_that_are_no_numbers_are_refused(
    tiny: Tiny, frames: list[NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch, output: int
) -> None:
    real = OnnxDetector.infer

    def spoiled(detector: OnnxDetector, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        found = real(detector, images)
        if detector is reference:
            found[output][0, 0, 0] = np.nan
        return found

    with OnnxDetector(tiny.onnx) as reference:
        monkeypatch.setattr(OnnxDetector, "infer", spoiled)
        found = compare(reference, tiny.onnx, onnx.load(tiny.onnx), frames, "fp32")
    with pytest.raises(GateFailedError, match="is not written"):
        found.check(OUTPUT)


@pytest.fixture
def frames(tiny: Tiny) -> list[NDArray[np.uint8]]:
    """Two images that the tiny detector was trained on."""
    return [load_image(record.path) for record in tiny.dataset.records[:2]]
