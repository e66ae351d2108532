"""`ssd-edge codes`."""

import json
from pathlib import Path

import cv2
import pytest

from ssd_edge.cli.main import main
from tests.ssd_edge.cli.complaint import complaint


def test_codes_writes_a_dataset_and_a_video(tmp_path: Path) -> None:
    assert main(["codes", "-o", str(tmp_path / "set"), "--count", "2", "--size", "160x128"]) == 0
    written = json.loads((tmp_path / "set" / "annotations.json").read_text())
    assert [(image["width"], image["height"]) for image in written["images"]] == [(160, 128)] * 2
    video = tmp_path / "moving.mp4"
    assert main(["codes", "-o", str(video), "--seconds", "0.1"]) == 0
    assert cv2.VideoCapture(str(video)).get(cv2.CAP_PROP_FRAME_COUNT) == 3


def test_codes_takes_a_folder_with_a_dot_in_its_name(tmp_path: Path) -> None:
    assert main(["codes", "-o", str(tmp_path / "set.v1"), "--count", "1", "--size", "160x128"]) == 0
    assert (tmp_path / "set.v1" / "annotations.json").is_file()


def test_codes_does_not_overwrite_annotations_of_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "annotations.json").write_text('{"info": {"description": "mine"}}')
    assert main(["codes", "-o", str(tmp_path), "--count", "1"]) == 1
    assert "annotations.json is not of ssd-edge codes" in complaint(capsys)
