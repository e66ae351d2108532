"""An engine without a GPU, as `parity` sees it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ssd_edge.runtime.backends.base import Detector


class FakeEngine(Detector):
    """What an engine is to parity: boxes and scores, and a suffix that is not .onnx."""

    def __init__(self, inner: Detector) -> None:
        super().__init__(inner.card)
        self.inner = inner
        self.closed = False

    def infer(self, images_rgb: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self.inner.infer(images_rgb)

    def _release(self) -> None:
        self.closed = True
        self.inner.close()
