"""A model in a file. Imports no onnx, which a machine that runs the GPU's tests may not have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import onnx


@pytest.fixture
def write(tmp_path: Path) -> Callable[[onnx.ModelProto | bytes], Path]:
    def write(model: onnx.ModelProto | bytes) -> Path:
        path = tmp_path / "model.onnx"
        path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
        return path

    return write
