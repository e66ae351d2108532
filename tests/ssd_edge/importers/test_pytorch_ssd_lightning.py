"""PyPI's pytorch-ssd: imported checkpoints of Lightning give what the original code gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ssd_edge.checkpoint import Checkpoint, save_checkpoint
from ssd_edge.errors import ModelFileError
from ssd_edge.importers.importing import Imported, import_model
from tests.ssd_edge.importers.golden import Golden

PARAMETERS = {"dataset_name": "COCO", "backbone_name": "VGG300", "image_size": [300, 300], "n_classes": 4}


def imported(state: dict[str, Tensor], folder: Path) -> Imported:
    checkpoint = {"epoch": 3, "state_dict": state, "optimizer_states": [], "hyper_parameters": PARAMETERS}
    torch.save(checkpoint, folder / "ckpt-epoch=03-val_loss=1.23.ckpt")
    return import_model([folder / "ckpt-epoch=03-val_loss=1.23.ckpt"])


@pytest.mark.parametrize("variant", ["vgg300", "vgg300bn", "vgg512", "vgg512bn"])
def test_equals_the_original(variant: str, tmp_path: Path) -> None:
    golden = Golden.read(f"lightning_{variant}")
    model = imported(golden.state_dict(), tmp_path)
    assert (model.family, model.variant) == ("pytorch-ssd-lightning", variant.upper())
    assert (model.card.score_threshold, model.card.nms_iou, model.card.detections) == (0.8, 0.45, 100)
    save_checkpoint(tmp_path / "model.pt", Checkpoint(model.card, model.state_dict))
    golden.assert_equal(tmp_path / "model.pt")


def test_what_it_assumes(tmp_path: Path) -> None:
    state = Golden.read("lightning_vgg300").state_dict()
    options = [assumption.option for assumption in imported(state, tmp_path).assumptions]
    assert options == ["--default-boxes", "--score-threshold", "--classes"]


def test_other_backbones_are_named(tmp_path: Path) -> None:
    state = {name: torch.zeros(1) for name in ("backbone.backbone.0.weight", "predictor.cls_headers.0.weight")}
    with pytest.raises(ModelFileError, match=r"VGGLite, MobileNetV2 or ResNeXt, by its names; .* VGG300, VGG512"):
        imported(state, tmp_path)
