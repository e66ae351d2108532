"""`ssd-edge import` as a user types it."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ssd_edge.checkpoint import load_checkpoint
from ssd_edge.choices import FAMILIES
from ssd_edge.cli.main import main
from ssd_edge.importers import importing
from ssd_edge.models.create import create_model
from ssd_edge.runtime.detector import open_detector

LITE = "ssdlite320_mobilenet_v3_large"


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return create_model(LITE, 2).state_dict()


def run(*arguments: str | Path) -> int:
    return main(["import", *map(str, arguments)])


def test_the_families_of_the_help_are_those_that_there_are() -> None:
    assert [family.name for family in importing.FAMILIES] == list(FAMILIES)


@pytest.mark.parametrize("wrapping", ["plain", "reference", "averaged", "parallel", "half", "safetensors"])
def test_torchvision_in_all_wrappings(
    state: dict[str, Tensor], wrapping: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / ("model.safetensors" if wrapping == "safetensors" else "model.pth")
    zeros = {name: torch.zeros_like(value) for name, value in state.items()}
    contents = {
        "plain": state,
        "reference": {"model": state, "epoch": 3, "args": argparse.Namespace(lr=0.1)},
        "averaged": {"model": zeros, "model_ema": {f"module.{name}": value for name, value in state.items()}},
        "parallel": {f"module.{name}": value for name, value in state.items()},
        "half": {name: value.half() if value.is_floating_point() else value for name, value in state.items()},
    }
    if wrapping == "safetensors":
        save_file(state, path)
    else:
        torch.save(contents[wrapping], path)
    assert run(path, "-o", tmp_path / "ours.pt", "--classes", "cat,dog") == 0
    out, err = capsys.readouterr()
    assert f"torchvision's {LITE}, 320×320, classes cat, dog" in out
    assert ("assumed: weights: the entry model_ema, not model (--entry" in err) == (wrapping == "averaged")
    ours = load_checkpoint(tmp_path / "ours.pt")
    assert (ours.card.arch, ours.card.class_names) == (LITE, ("cat", "dog"))
    tolerance = 1e-3 if wrapping == "half" else 0
    assert all(torch.allclose(value, state[name], atol=tolerance) for name, value in ours.state_dict.items())


def test_names_that_are_not_given_are_made_up_and_said(
    state: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(state, tmp_path / "model.pth")
    assert run(tmp_path / "model.pth", "-o", tmp_path / "ours.pt") == 0
    assert "assumed: class names: not in the file; called class 1, class 2 (--classes" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["__background__\ncat\ndog\n", "\ufeffBACKGROUND\r\ncat\r\ndog\r\n\r\n", "cat\ndog"])
def test_labels_with_and_without_background(state: dict[str, Tensor], text: str, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "model.pth")
    (tmp_path / "labels.txt").write_bytes(text.encode())
    assert run(tmp_path / "model.pth", "-o", tmp_path / "ours.pt", "--classes", tmp_path / "labels.txt") == 0
    assert load_checkpoint(tmp_path / "ours.pt").card.class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("cat", "1 class names; the model has 2 classes without the background"),
        ("background,cat", "2 class names, 'background' among them; the model has 2 classes"),
        ("cat,cat", "the name 'cat' stands for two classes"),
        ("cat,", "has an empty name"),
    ],
)
def test_labels_that_do_not_fit(
    state: dict[str, Tensor], classes: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(state, tmp_path / "model.pth")
    assert run(tmp_path / "model.pth", "-o", tmp_path / "ours.pt", "--classes", classes) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "ours.pt").exists()


def test_what_is_no_ssd(state: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = torch.ones(4, 4)
    files = {
        "a classifier": {"conv1.weight": torch.ones(1, 3, 1, 1), "fc.weight": one},
        "those of a YOLO": {"model.0.conv.weight": torch.ones(1, 3, 1, 1)},
        "Faster R-CNN": {"rpn.head.conv.weight": one},
        "no detector of a known family": {"encoder.weight": one},
        "2 of ": {
            name: value for name, value in state.items() if "extra.2.1.0" not in name and "extra.2.2.0" not in name
        },
        "values that are not finite": {
            name: value * float("nan") if value.is_floating_point() else value for name, value in state.items()
        },
        "has no tensors by name": {"epoch": 3},
    }
    for message, content in files.items():
        torch.save(content, tmp_path / "model.pth")
        assert run(tmp_path / "model.pth", "-o", tmp_path / "ours.pt", "--classes", "cat,dog") == 1
        assert message in capsys.readouterr().err
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pth")
    assert run(tmp_path / "whole.pth", "-o", tmp_path / "ours.pt") == 1
    assert "torch.save(" in capsys.readouterr().err
    torch.save({"format": "ssd-edge checkpoint", "model": state}, tmp_path / "ours.pth")
    assert run(tmp_path / "ours.pth", "-o", tmp_path / "ours.pt") == 1
    assert "a checkpoint of ssd-edge already" in capsys.readouterr().err
    (tmp_path / "model.pth").write_bytes((tmp_path / "model.pth").read_bytes()[:200])
    assert run(tmp_path / "model.pth", "-o", tmp_path / "ours.pt") == 1
    assert run(tmp_path / "absent.pth", "-o", tmp_path / "ours.pt") == 1
    assert run(tmp_path, "-o", tmp_path / "ours.pt") == 1


def test_other_commands_take_it_directly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    torch.save(create_model(LITE, 90).state_dict(), tmp_path / "coco.pth")
    assert main(["export", str(tmp_path / "coco.pth"), "-o", str(tmp_path / "coco.onnx")]) == 0
    assert "class names: COCO's" in caplog.text
    with open_detector(tmp_path / "coco.pth") as detector:
        assert detector.card.class_names[0] == "person"
    torch.save(create_model(LITE, 2).state_dict(), tmp_path / "own.pth")
    assert main(["export", str(tmp_path / "own.pth"), "-o", str(tmp_path / "own.onnx")]) == 1
    assert f"run ssd-edge import {tmp_path / 'own.pth'} -o model.pt --classes NAMES" in capsys.readouterr().err
