"""Images to calibrate on, and one trace for each model."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from ssd_edge.calib.images import CalibrationImages, calibration_images

if TYPE_CHECKING:
    import onnx

    from ssd_edge.models.predict import Predictor
    from tests.detectors.tiny_detector import Tiny

TRACED: dict[bytes, bytes] = {}  # graphs by the weights that they are of


@pytest.fixture(autouse=True)
def traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace each model once for all tests here: tracing takes seconds, and test_onnx_export.py is about it."""
    import onnx  # not at the top: `pytest -m gpu` loads this file without onnx and torch

    from ssd_edge.export import trace

    real = trace.onnx_from_predictor

    def once(predictor: Predictor, size_hw: tuple[int, int]) -> onnx.ModelProto:
        weights = b"".join(value.numpy().tobytes() for value in predictor.state_dict().values())
        key = hashlib.sha256(weights).digest()
        if key not in TRACED:
            TRACED[key] = real(predictor, size_hw).SerializeToString()
        return onnx.load_from_string(TRACED[key])

    monkeypatch.setattr(trace, "onnx_from_predictor", once)


@pytest.fixture(scope="module")
def images(tiny: Tiny) -> CalibrationImages:
    return calibration_images(tiny.data, 6)
