"""amdegroot/ssd.pytorch: imported checkpoints give what the original code gives."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ssd_edge.card import ModelCard
from ssd_edge.checkpoint import Checkpoint, save_checkpoint
from ssd_edge.errors import ModelFileError
from ssd_edge.importers.importing import Imported, import_model
from ssd_edge.models.default_boxes import DefaultBoxConfig
from tests.ssd_edge.importers.golden import Golden

BOXES = (4, 6, 6, 6, 4, 4)  # default boxes a cell of each level


def imported(state: dict[str, Tensor], folder: Path) -> Imported:
    torch.save(state, folder / "ssd300.pth")
    return import_model([folder / "ssd300.pth"])


def zeros(classes: int) -> dict[str, Tensor]:
    """A whole state dict for a number of classes."""
    state = {name: torch.zeros(value.shape) for name, value in Golden.read("amdegroot_coco").state_dict().items()}
    for level, boxes in enumerate(BOXES):
        weight = state[f"conf.{level}.weight"]
        state[f"conf.{level}.weight"] = weight.new_zeros(boxes * (classes + 1), *weight.shape[1:])
        state[f"conf.{level}.bias"] = weight.new_zeros(boxes * (classes + 1))
    return state


def default_boxes(card: ModelCard) -> DefaultBoxConfig:
    return DefaultBoxConfig.from_dict(card.default_boxes)


@pytest.mark.parametrize("variant", ["voc", "coco"])
def test_equals_the_original(variant: str, tmp_path: Path) -> None:
    golden = Golden.read(f"amdegroot_{variant}")
    model = imported(golden.state_dict(), tmp_path)
    assert model.family == "amdegroot"
    save_checkpoint(tmp_path / "model.pt", Checkpoint(model.card, model.state_dict))
    golden.assert_equal(tmp_path / "model.pt")


def test_voc_is_known_by_its_21_columns(tmp_path: Path) -> None:
    model = imported(zeros(20), tmp_path)
    assert model.card.class_names[::19] == ("aeroplane", "tvmonitor")
    assert (default_boxes(model.card).scales[0], default_boxes(model.card).clip) == (0.1, "centres")
    assert (model.card.mean, model.card.std) == ((123, 117, 104), (1, 1, 1))
    assert [assumption.option for assumption in model.assumptions] == ["--classes"]


def test_coco_has_201_columns_of_which_80_are_classes(tmp_path: Path) -> None:
    model = imported(zeros(200), tmp_path)
    names = model.card.class_names
    assert (len(names), names[10], names[79], set(names[80:])) == (200, "fire hydrant", "toothbrush", {"unused"})
    assert (model.card.candidates, model.card.detections) == (200, 1000)
    assert default_boxes(model.card).scales[0] == 0.07
    assert [assumption.option for assumption in model.assumptions] == ["--default-boxes", "--classes"]


@pytest.mark.parametrize(
    ("left_out", "message"),
    [
        ({"L2Norm.weight"}, "1 of 71 tensors are missing: L2Norm.weight"),
        ({"conf.0.weight"}, "not whole: conf.0.weight is missing"),
        ({f"conf.{k}.{n}" for k in range(6) for n in ("weight", "bias")}, "not whole: conf.0.weight is missing"),
        ({"extras.7.bias", "vgg.33.weight"}, "2 of 71 tensors are missing: vgg.33.weight, extras.7.bias"),
    ],
)
def test_what_is_missing_is_named(left_out: set[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=re.escape(message)):
        imported({name: value for name, value in zeros(2).items() if name not in left_out}, tmp_path)


def test_detectors_that_look_like_it(tmp_path: Path) -> None:
    s3fd = {name.replace("L2Norm", "L2Norm3_3"): value for name, value in zeros(1).items()}
    with pytest.raises(ModelFileError, match=r"no detector of a known family .* such as vgg\.0\.weight"):
        imported(s3fd, tmp_path)
    with pytest.raises(ModelFileError, match="seven levels, as SSD512 has"):
        imported({**zeros(1), "conf.6.weight": torch.zeros(8, 256, 3, 3)}, tmp_path)
    with pytest.raises(ModelFileError, match=r"conf.0.weight and loc.0.weight, .* do not fit together"):
        imported({**zeros(1), "loc.0.weight": torch.zeros(18, 512, 3, 3)}, tmp_path)
