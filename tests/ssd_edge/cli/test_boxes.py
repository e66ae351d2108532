"""`ssd-edge boxes`."""

import json
from pathlib import Path

import pytest

from ssd_edge.cli.main import main
from tests.ssd_edge.cli.complaint import complaint


def test_the_table_and_the_json(fixed_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = tmp_path / "boxes.json"
    assert main(["boxes", str(fixed_dataset), "--arch", "ssd300_vgg16", "--json", str(figures)]) == 0
    table = capsys.readouterr().out
    assert "  qr_code (2) " in table
    assert "\nfitted scales " in table
    report = json.loads(figures.read_text())
    assert set(report) == {"own", "fitted", "default_boxes"}
    assert report["own"]["boxes"] == {"qr_code": 2, "aztec": 2}
    assert len(report["default_boxes"]["aspect_ratios"]) == 6  # the feature maps of SSD300


def test_an_architecture_that_is_unknown(fixed_dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["boxes", str(fixed_dataset), "--arch", "yolo"]) == 2
    assert "unknown architecture 'yolo'" in complaint(capsys)
