"""What tests of streams share: videos to read, outputs to read back, the command line, changed detectors."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ssd_edge.runtime.backends.base import Detector
from ssd_edge.runtime.detector import open_detector

RED_CELL = [16.0, 12.0, 32.0, 24.0]  # second row, second column of the model's 4×4 cells, at 64×48


def write_video(path: Path, frames: int) -> Path:
    """64×48 at 20 FPS; every second frame shows a red cell."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 20.0, (64, 48))
    for index in range(frames):
        image = np.zeros((48, 64, 3), np.uint8)
        if index % 2 == 0:
            image[12:24, 16:32] = (0, 0, 255)
        writer.write(image)
    writer.release()
    return path


def count_frames(path: Path) -> int:
    capture = cv2.VideoCapture(str(path))
    count = 0
    while capture.grab():
        count += 1
    return count


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run_cli(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ssd_edge", "stream", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def change_detectors(monkeypatch: pytest.MonkeyPatch, change: Callable[[Detector], None]) -> None:
    """Have `change` see each detector that a stream opens."""

    def open_changed(*arguments: Any, **options: Any) -> Detector:
        detector = open_detector(*arguments, **options)
        change(detector)
        return detector

    monkeypatch.setattr("ssd_edge.runtime.stream.run.open_detector", open_changed)
