"""`ssd-edge demo`."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest

from ssd_edge import demo
from ssd_edge.cli.main import main
from ssd_edge.runtime.results import Result
from tests.ssd_edge.cli.complaint import complaint


def test_demo_reports_fps_and_map(
    fixed_model: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "demo"
    assert main(["demo", "--model", str(fixed_model()), "-o", str(folder), "--seconds", "0.2"]) == 0
    out = capsys.readouterr().out
    assert "FPS" in out
    assert "mAP" in out
    assert len((folder / "detections.jsonl").read_text().splitlines()) == 6
    assert cv2.VideoCapture(str(folder / "annotated.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 6


def test_an_interrupted_demo_exits_with_130_and_keeps_what_is_written(
    fixed_model: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class InterruptedSink(demo.ConfidentVideoSink):
        def write(self, result: Result, *rest: Any) -> None:
            if result.frame.index == 2:
                signal.raise_signal(signal.SIGINT)
            super().write(result, *rest)

    monkeypatch.setattr(demo, "ConfidentVideoSink", InterruptedSink)
    assert main(["demo", "--model", str(fixed_model()), "-o", str(tmp_path / "demo"), "--seconds", "1"]) == 130
    assert complaint(capsys) == "ssd-edge: interrupted"
    frames = len((tmp_path / "demo" / "detections.jsonl").read_text().splitlines())
    assert 3 <= frames < 30
    assert cv2.VideoCapture(str(tmp_path / "demo" / "annotated.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == frames
