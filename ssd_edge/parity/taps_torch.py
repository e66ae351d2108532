"""Logits and offsets of a checkpoint in PyTorch. Needs the `train` extra."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from ssd_edge.checkpoint import model_from_checkpoint
from ssd_edge.models.ssd import RawOutputs
from ssd_edge.parity.taps import RawTensors, Tap
from ssd_edge.runtime.backends.torch import TorchDetector


def tap_torch(path: Path) -> Tap:
    """Run a checkpoint on the CPU, with an ear at the model's own output.

    Raises:
        ModelFileError: as `model_from_checkpoint`.
    """
    model, card = model_from_checkpoint(path)
    heard: list[RawOutputs] = []

    def listen(_module: nn.Module, _inputs: tuple[Tensor, ...], outputs: RawOutputs) -> None:
        heard[:] = [outputs]

    model.register_forward_hook(listen)
    detector = TorchDetector(model, card)

    def run(images_rgb: NDArray[np.uint8]) -> RawTensors:
        boxes, scores = detector.infer(images_rgb)
        (raw,) = heard
        return RawTensors(boxes, scores, raw.cls_logits.float().numpy(), raw.bbox_regression.float().numpy())

    return Tap(run, detector.close)
