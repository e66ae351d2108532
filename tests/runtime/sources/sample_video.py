"""A short video of noise."""

from pathlib import Path

import cv2
import numpy as np


def write_video(path: Path, frames: int = 30) -> Path:
    """64×48, 20 FPS; noise, so that its size is in the frames and not in the headers."""
    rng = np.random.default_rng(0)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 20.0, (64, 48))
    for _ in range(frames):
        writer.write(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    writer.release()
    return path
