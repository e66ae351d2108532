"""pytorch-ssd of dusty-nv and qfgaohao: imported checkpoints give what the original code gives."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ssd_edge.checkpoint import Checkpoint, save_checkpoint
from ssd_edge.errors import ModelFileError
from ssd_edge.importers.family import Facts
from ssd_edge.importers.importing import Imported, import_model
from tests.ssd_edge.importers.golden import Golden

VARIANTS = {
    "mb1_ssd": "ssd300_mobilenet_v1",
    "mb1_ssd_lite": "ssdlite300_mobilenet_v1",
    "mb2_ssd_lite": "ssdlite300_mobilenet_v2",
    "mb2_ssd_lite_050": "ssdlite300_mobilenet_v2_050",
    "vgg16_ssd": "ssd300_vgg16_batchnorm",
    "sq_ssd_lite": "ssdlite300_squeezenet",
}


def imported(state: dict[str, Tensor], folder: Path, facts: Facts | None = None) -> Imported:
    torch.save(state, folder / "mb1-ssd-Epoch-9-Loss-2.5.pth")
    return import_model([folder / "mb1-ssd-Epoch-9-Loss-2.5.pth"], facts)


def zeros(variant: str = "mb1_ssd", classes: int = 3) -> dict[str, Tensor]:
    """A whole state dict for a number of classes."""
    shapes = {name: value.shape for name, value in Golden.read(f"pytorch_ssd_{variant}").state_dict().items()}
    heads = {name: shape for name, shape in shapes.items() if name.startswith("classification_headers.")}
    columns = {name: shape[0] for name, shape in heads.items() if shape}  # not of a count of batches
    for name, count in columns.items():
        if count in (16, 24):  # boxes of a cell · 4 columns; the depthwise layers have 64 channels and more
            shapes[name] = torch.Size((count // 4 * (classes + 1), *shapes[name][1:]))
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_the_original(variant: str, tmp_path: Path) -> None:
    golden = Golden.read(f"pytorch_ssd_{variant}")
    model = imported(golden.state_dict(), tmp_path)
    assert (model.family, model.card.arch) == ("pytorch-ssd", VARIANTS[variant])
    save_checkpoint(tmp_path / "model.pt", Checkpoint(model.card, model.state_dict))
    golden.assert_equal(tmp_path / "model.pt")


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_headers_tell_the_number_of_classes(variant: str, tmp_path: Path) -> None:
    model = imported(zeros(variant, classes=7), tmp_path)
    assert model.card.arch == VARIANTS[variant]
    assert model.card.class_names == tuple(f"class {number}" for number in range(1, 8))
    assert (model.card.candidates, model.card.detections) == (200, 1000)


def test_what_the_file_does_not_say(tmp_path: Path) -> None:
    model = imported(zeros(), tmp_path)
    assert [each.option for each in model.assumptions] == [None, "--classes"]
    assert str(model.assumptions[0]).startswith("input: 300×300 pixels; for a network trained at another --resolution")
    voc = imported(zeros(classes=20), tmp_path)
    assert voc.card.class_names[::19] == ("aeroplane", "tvmonitor")


def test_labels_next_to_it(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("BACKGROUND\napple\npear\nplum\n", encoding="utf-8")
    assert imported(zeros(), tmp_path).card.class_names == ("apple", "pear", "plum")


def test_files_before_pytorch_1_count_no_batches(tmp_path: Path) -> None:
    old = {name: value for name, value in zeros().items() if not name.endswith("num_batches_tracked")}
    assert imported(old, tmp_path).card.arch == "ssd300_mobilenet_v1"


def without(state: dict[str, Tensor], pattern: str) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not re.search(pattern, name)}


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    mb1, mb2 = zeros(), zeros("mb2_ssd_lite")
    cases = {
        "mb1-ssd has [512, 256, 1, 1]": mb1 | {"base_net.6.3.weight": torch.zeros(400, 256, 1, 1)},  # pruned
        "regression_headers.1.weight is [16, 1024, 3, 3], pytorch-ssd's mb1-ssd has [24, 1024, 3, 3]": mb1
        | {"regression_headers.1.weight": torch.zeros(16, 1024, 3, 3)},
        "2 of 202 tensors": without(mb1, r"^extras\.3\.2"),
        "1 tensors have no place in pytorch-ssd's mb1-ssd: extras.4.0.weight": mb1
        | {"extras.4.0.weight": torch.ones(1)},
        "not whole: classification_headers.0.weight is missing": without(mb1, "^classification"),
        "MobileNetV2 at a width of 0.34375; ssd-edge takes 1, 0.75, 0.5, 0.25": mb2
        | {"base_net.0.0.weight": torch.zeros(11, 3, 3, 3)},
        "1 of 75 tensors are missing: source_layer_add_ons.0.weight": without(zeros("vgg16_ssd"), "add_ons.0.weight"),
        # MobileNetV3, and MobileNetV1 with a feature pyramid
        "headers on another backbone (base_net.2.conv1.weight)": mb1 | {"base_net.2.conv1.weight": torch.zeros(1)},
    }
    for message, state in cases.items():
        with pytest.raises(ModelFileError, match=re.escape(message)):
            imported(state, tmp_path)


def test_another_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="import its ONNX file"):
        imported(zeros(), tmp_path, Facts(size_hw=(512, 512)))
