"""`ssd-edge parity`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ssd_edge.cli.main import main


def test_parity_passes_and_fails(
    fixed_model: Callable[..., Path], fixed_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference, figures = str(fixed_model("a.onnx")), tmp_path / "figures.json"
    worse = str(fixed_model("b.onnx", found=((0.125, 0.125, 0.75, 0.75), (0.0, 0.0, 0.1, 0.1))))
    data = ["--data", str(fixed_dataset)]
    assert main(["parity", reference, reference, *data]) == 0
    capsys.readouterr()
    assert main(["parity", reference, worse, *data, "--max-drop", "1%", "--json", str(figures)]) == 3
    captured = capsys.readouterr()
    assert "FALLS SHORT" in captured.out
    assert captured.err.startswith("ssd-edge: error: parity failed")
    assert json.loads(figures.read_text())["passed"] is False  # written although the gate failed
