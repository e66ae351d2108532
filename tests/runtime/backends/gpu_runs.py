"""What tests of the GPU's pipeline share: kinds of GPUs, engines and frames."""

from __future__ import annotations

import cv2
import numpy as np

from ssd_edge.runtime.backends.gpu_detector import GpuDetector
from ssd_edge.runtime.pixels import YuvPlanes
from tests.fakes.host_cuda import HostCuda
from tests.fakes.host_engine import HostEngine
from tests.fakes.lazy_cuda import LazyCuda

CUDAS = (HostCuda, LazyCuda, lambda: LazyCuda(integrated=True))


def engine_of(detector: GpuDetector) -> HostEngine:
    engine = detector.engine
    assert isinstance(engine, HostEngine)
    return engine


def random_frames(*sizes_hw: tuple[int, int], seed: int = 0) -> list[np.ndarray]:
    """Coloured cells of all scores, so that a frame in the place of another shows."""
    rng = np.random.default_rng(seed)
    frames = []
    for height, width in sizes_hw:
        cells = rng.integers(0, 256, (4, 4, 3), np.uint8)
        frames.append(np.ascontiguousarray(cells[np.arange(height) * 4 // height][:, np.arange(width) * 4 // width]))
    return frames


def nv12_of(frame: np.ndarray) -> YuvPlanes:
    """Of uint8 [H, W, 3] BGR, both even."""
    height, width = frame.shape[:2]
    planes: np.ndarray = cv2.cvtColor(frame, cv2.COLOR_BGR2YUV_I420)
    u, v = planes[height:].reshape(2, height // 2, width // 2)
    return YuvPlanes(planes[:height], (np.stack([u, v], axis=-1),))
