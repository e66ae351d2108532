"""Run a checkpoint with PyTorch: what every other backend is compared with. Needs the `train` extra."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ssd_edge.card import ModelCard
from ssd_edge.checkpoint import model_from_checkpoint
from ssd_edge.errors import UsageError
from ssd_edge.models.predict import Predictor
from ssd_edge.models.ssd import SSD
from ssd_edge.runtime.backends.base import Detector


class TorchDetector(Detector):
    """A `Detector` for a PyTorch model, on the model's device. The model is put into evaluation mode."""

    batch = 4  # SSDlite320 on two cores: about 15 % more frames a second than one by one

    def __init__(self, model: SSD, card: ModelCard, *, score_threshold: float | None = None) -> None:
        super().__init__(card, score_threshold=score_threshold)
        self._predictor = Predictor(model).eval()

    @classmethod
    def open(
        cls, path: Path, *, threads: int | None = None, score_threshold: float | None = None, device: str | None = None
    ) -> TorchDetector:
        """Open a checkpoint (`.pt`, `.safetensors`) on `device` (`cpu`, `cuda`, `cuda:1`); None: the CPU.

        `threads` sets PyTorch's thread count, which is one for the whole process.

        Raises:
            ModelFileError: as `model_from_checkpoint`.
            UsageError: the device is not there.
        """
        chosen = torch_device("cpu" if device is None else device)
        model, card = model_from_checkpoint(path)
        if threads is not None:
            torch.set_num_threads(threads)
        return cls(model.to(chosen), card, score_threshold=score_threshold)

    def infer(self, images_rgb: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        with torch.inference_mode():
            device = self._predictor.model.default_boxes_xyxy.device
            boxes, scores = self._predictor(torch.from_numpy(images_rgb).to(device))
        return boxes.cpu().numpy(), scores.cpu().numpy()

    def _release(self) -> None:
        del self._predictor


def torch_device(name: str) -> torch.device:
    """The device of that name, with the messages that training has."""
    try:
        chosen = torch.device(name)
    except RuntimeError:
        chosen = None
    if chosen is None or chosen.type not in ("cpu", "cuda"):
        raise UsageError(f"--device {name}: expected cpu, cuda or cuda:1 and so on")
    if chosen.type == "cuda":
        if not torch.cuda.is_available():
            raise UsageError(f"--device {chosen}: PyTorch finds no CUDA device here; leave it out to run on the CPU")
        if (chosen.index or 0) >= torch.cuda.device_count():
            raise UsageError(f"--device {chosen}: there are {torch.cuda.device_count()} GPUs, numbered from 0")
    return chosen
