"""Write goldens/lightning_*.npz: what PyPI's pytorch-ssd makes of `tests/ssd_edge/importers/filling.py`.

    PYTHONPATH=REPOSITORY python make_pytorch_ssd_lightning.py PACKAGE

PACKAGE is a folder with pytorch_ssd 1.8.0. Of what it needs, PyTorch and torchvision suffice: the rest, for training
and datasets, is replaced by stand-ins.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
from torch import nn

from tests.ssd_edge.importers.filling import images
from tests.ssd_edge.importers.golden import GOLDENS, Found, anchors_of, filled, save_golden

VERSION = "PyPI pytorch-ssd 1.8.0"
COLUMNS = 4
GAINS = {
    "backbone.backbone.0.": 0.7,
    "predictor.cls_headers.0.": 30,
    "predictor.reg_headers.0.": 10,
    "predictor.cls_headers.": 0.5,
    "predictor.reg_headers.": 0.4,
}
BATCH_NORM_GAINS = {**GAINS, "predictor.cls_headers.": 0.2, "predictor.reg_headers.": 0.2}
LEVELS = {
    300: ((38, 19, 10, 5, 3, 1), (4, 6, 6, 6, 4, 4)),
    512: ((64, 32, 16, 8, 4, 2, 1), (4, 6, 6, 6, 6, 4, 4)),
}
VARIANTS = {"vgg300": 300, "vgg300bn": 300, "vgg512": 512, "vgg512bn": 512}
STAND_INS = (
    *("albumentations", "albumentations.pytorch", "h5py", "pycocotools", "pycocotools.coco", "wandb"),
    *("pytorch_lightning.callbacks", "pytorch_lightning.loggers"),
)


class LightningModule(nn.Module):
    """What the original needs of Lightning's."""

    def save_hyperparameters(self) -> None:
        """Nothing is saved here."""


class Metric(nn.Module):
    """What the original needs of Lightning's."""

    def __init__(self, **_: Any) -> None:
        super().__init__()

    def add_state(self, name: str, **_: Any) -> None:
        """Lightning leaves these states out of checkpoints."""


def _original(package: Path) -> Any:
    for name in STAND_INS:
        sys.modules[name] = MagicMock()
    lightning, metrics = ModuleType("pytorch_lightning"), ModuleType("pytorch_lightning.metrics")
    vars(lightning).update(LightningModule=LightningModule, Trainer=MagicMock(), seed_everything=MagicMock())
    vars(metrics).update(Metric=Metric)
    sys.modules.update({"pytorch_lightning": lightning, "pytorch_lightning.metrics": metrics})
    sys.path.insert(0, str(package))
    return importlib.import_module("pytorch_ssd.modeling.model").SSD


@torch.no_grad()
def main(package: Path) -> None:
    ssd = _original(package)
    for variant, side in VARIANTS.items():
        model = ssd("COCO", "", n_classes=COLUMNS, backbone_name=variant.upper(), image_size=(side, side)).eval()
        state = model.state_dict()
        gains = BATCH_NORM_GAINS if variant.endswith("bn") else GAINS
        model.load_state_dict(filled({name: value.shape for name, value in state.items()}, gains))
        pictures = images(side, side) / 255  # as its datasets give them, and Normalize with max_pixel_value 1
        normal = (pictures - model.backbone.PIXEL_MEANS) / model.backbone.PIXEL_STDS
        inputs = torch.from_numpy(normal.astype(np.float32)).permute(0, 3, 1, 2)
        logits, offsets = model.predictor(model.backbone(inputs))
        bboxes = importlib.import_module("pytorch_ssd.data.bboxes")
        centred = bboxes.convert_locations_to_boxes(offsets, model.anchors, model.center_variance, model.size_variance)
        boxes = bboxes.center_bbox_to_corner_bbox(centred).numpy()
        found = [Found(b.numpy() / side, s.numpy(), n.numpy()) for b, s, n in model(inputs)]
        path = GOLDENS / f"lightning_{variant}.npz"
        outputs = (boxes, logits.softmax(-1).numpy())
        save_golden(path, state, gains, anchors_of(*LEVELS[side]), outputs, found, VERSION)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
