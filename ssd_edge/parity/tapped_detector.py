"""`TappedDetector`: a detector that also tells what its network gave before decoding.

The network runs once an image: its raw tensors are kept, and the detections are made from the same tensors by the
suppression that every detector shares.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssd_edge.card import ModelCard
from ssd_edge.choices import CHECKPOINT_SUFFIXES
from ssd_edge.detections import Detections
from ssd_edge.errors import MissingDependencyError
from ssd_edge.parity.taps import RawTensors, Tap
from ssd_edge.runtime.backends.base import Detector
from ssd_edge.runtime.detector import open_detector


class TappedDetector(Detector):
    """A `Detector` that remembers the raw tensors of its last call.

    Attributes:
        raw: `RawTensors` of the last call.
        notes: as `Tap.notes`.
    """

    raw: RawTensors

    def __init__(self, card: ModelCard, tap: Tap) -> None:
        super().__init__(card)
        self._tap = tap
        self.notes = tap.notes

    def infer(self, images_rgb: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        self.raw = self._tap.run(images_rgb)
        return self.raw.boxes, self.raw.scores

    def detect(self, frame_bgr: NDArray[np.uint8]) -> tuple[RawTensors, Detections]:
        """Raw tensors (a batch of one) and detections of one frame, uint8 [H, W, 3] BGR."""
        (found,) = self([frame_bgr])
        return self.raw, found

    def _release(self) -> None:
        self._tap.close()


def open_tapped(path: Path, *, threads: int | None = None, heads: bool = True) -> TappedDetector:
    """Open any model file that `open_detector` opens.

    Args:
        heads: look for logits and offsets too; an `.onnx` file then needs the `export` extra.

    Raises:
        ModelFileError, MissingDependencyError, UsageError: as `open_detector`.
    """
    # Several models take turns here: threads that spin while they wait would take the cores from the others.
    detector = open_detector(path, threads=threads, spin=False)
    try:
        return TappedDetector(detector.card, _tap(path, detector, threads) if heads else _plain_tap(detector))
    except BaseException:
        detector.close()
        raise


def _tap(path: Path, detector: Detector, threads: int | None) -> Tap:
    if path.suffix == ".onnx":
        try:
            from ssd_edge.parity.taps_onnx import tap_onnx
        except ModuleNotFoundError as error:
            if error.name is None or error.name.startswith("ssd_edge"):
                raise
            raise MissingDependencyError(
                f"the stages of {path} are found in its graph, which needs the package {error.name}", extra="export"
            ) from error
        return tap_onnx(path, detector, threads=threads)
    if path.suffix in CHECKPOINT_SUFFIXES:
        from ssd_edge.parity.taps_torch import tap_torch

        detector.close()  # only its checks were wanted
        return tap_torch(path)
    note = f"{path}: a {path.suffix} file gives boxes and scores only, so its logits and offsets are not available"
    return _plain_tap(detector, note)


def _plain_tap(detector: Detector, *notes: str) -> Tap:
    """Boxes and scores only."""
    return Tap(lambda images_rgb: RawTensors(*detector.infer(images_rgb)), detector.close, notes)
