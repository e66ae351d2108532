"""Boxes and settings for the suppression."""

from __future__ import annotations

from typing import Any

import numpy as np

SETTINGS: dict[str, Any] = {"score_threshold": 0.1, "iou_threshold": 0.5, "candidates": 100, "detections": 50}


def random_boxes(rng: np.random.Generator, count: int, grid: int | None = None) -> np.ndarray:
    """float32 [count, 4]; on a coarse grid, boxes repeat and IoUs fall on round fractions."""
    corners = rng.random((count, 2, 2)) if grid is None else rng.integers(0, grid + 1, (count, 2, 2)) / grid
    corners.sort(axis=1)
    return corners.reshape(count, 4).astype(np.float32)
