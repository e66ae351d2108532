"""Training starts from weights and default boxes of other models, as far as they fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ssd_edge.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from ssd_edge.data.readers import read_dataset
from ssd_edge.errors import DatasetError, ModelFileError, UsageError
from ssd_edge.models.architecture import ARCHITECTURES, PublishedWeights
from ssd_edge.models.create import create_model
from ssd_edge.training.boxes import compare_boxes
from ssd_edge.training.config import TrainConfig
from ssd_edge.training.run import train, train_on
from tests.detectors.tiny_arch import WITHOUT_NORM, write_yolo
from tests.ssd_edge.training.configs import changed


def test_a_checkpoint_to_start_from(config: TrainConfig, tmp_path: Path) -> None:
    """Fine-tuning with other classes: only the class heads start anew."""
    torch.manual_seed(5)
    start = create_model(config.model.arch, 3)
    card = start.make_card(("a", "b", "c"), (1, 2, 3))
    save_checkpoint(tmp_path / "start.pt", Checkpoint(card, start.state_dict()))
    tiny = changed(config, epochs=1, lr=1e-9, weight_decay=0.0, weights=str(tmp_path / "start.pt"))
    tuned = load_checkpoint(train(tiny)).state_dict
    for name, parameter in start.named_parameters():
        if name.startswith("head.classification_head"):
            continue
        torch.testing.assert_close(tuned[name], parameter.detach(), atol=1e-6, rtol=0)
    with pytest.raises(ModelFileError, match="another architecture"):
        train(changed(tiny, arch=WITHOUT_NORM, output=tmp_path / "other"))


def test_classes_are_kept_by_name(config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(5)
    start = create_model(config.model.arch, 2)
    card = start.make_card(("circle", "square"), (1, 2))
    save_checkpoint(tmp_path / "start.pt", Checkpoint(card, start.state_dict()))
    still = changed(config, epochs=1, lr=1e-9, weight_decay=0.0, weights=str(tmp_path / "start.pt"))
    data = write_yolo(tmp_path / "three", 4, ("square", "star", "moon"))
    tuned = load_checkpoint(train(changed(still, data=str(data)))).state_dict
    assert "square kept, star, moon start anew" in capsys.readouterr().err
    for name in ("weight", "bias"):
        key = f"head.classification_head.module_list.0.{name}"
        new = torch.unflatten(tuned[key], 0, (4, 4))  # boxes a cell × (background, square, star, moon)
        old = torch.unflatten(start.state_dict()[key], 0, (4, 3))  # boxes a cell × (background, circle, square)
        torch.testing.assert_close(new[:, :2], old[:, [0, 2]], atol=1e-6, rtol=0)
    assert not torch.allclose(new[:, 1], new[:, 2]) or name == "bias"


def test_published_detectors_keep_classes_by_name(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """As COCO's 90 columns are kept for a dataset of its 80 names, or of two of them."""
    torch.manual_seed(5)
    published = create_model(config.model.arch, 3).state_dict()
    weights = {"coco": PublishedWeights("https://example.org/w-00000000.pth", class_names=("N/A", "square", "cat"))}
    tiny = ARCHITECTURES[config.model.arch]
    monkeypatch.setitem(ARCHITECTURES, config.model.arch, replace(tiny, weights=weights))
    monkeypatch.setattr("ssd_edge.training.initial_model.fetch_weights", lambda _: published)
    still = changed(config, epochs=1, lr=1e-9, weight_decay=0.0, weights="coco")
    tuned = load_checkpoint(train(still))
    assert tuned.card.default_boxes is None  # the trained head's
    key = "head.classification_head.module_list.0.bias"
    old, new = torch.unflatten(published[key], 0, (4, 4)), torch.unflatten(tuned.state_dict[key], 0, (4, 2))
    torch.testing.assert_close(new, old[:, [0, 2]], atol=1e-6, rtol=0)


def test_another_architectures_checkpoint_is_named(config: TrainConfig) -> None:
    first = train(config)
    assert load_checkpoint(first).card.default_boxes is not None
    with pytest.raises(ModelFileError, match=r"best\.pt is of another architecture, tiny; expected ssd300_vgg16"):
        train(changed(config, arch="ssd300_vgg16", weights=str(first), output=config.run.output / "other"))


def test_a_checkpoint_brings_its_default_boxes(config: TrainConfig) -> None:
    """Fitted boxes are part of what was learnt: fine-tuning keeps them though the new data are others."""
    first = train(config)
    fitted = load_checkpoint(first).card.default_boxes
    assert fitted is not None
    again = train(changed(config, weights=str(first), output=config.run.output / "again", seed=3))
    assert load_checkpoint(again).card.default_boxes == fitted
    own = train(changed(config, default_boxes="own", output=config.run.output / "own"))
    assert load_checkpoint(own).card.default_boxes is None


def test_own_boxes_are_the_architectures_also_after_fitted_ones(
    config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    first = train(config)
    own = train(changed(config, weights=str(first), default_boxes="own", output=config.run.output / "own"))
    assert load_checkpoint(own).card.default_boxes is None
    assert "was trained on other default boxes" in capsys.readouterr().err


def test_default_boxes_from_a_file(config: TrainConfig, tmp_path: Path) -> None:
    comparison = compare_boxes(read_dataset(Path(config.data.data)), config.model.arch)
    (tmp_path / "boxes.json").write_text(comparison.to_json())
    config = changed(config, default_boxes=str(tmp_path / "boxes.json"))
    written = load_checkpoint(train(config)).card.default_boxes
    assert comparison.config is not None
    assert written == comparison.config.to_dict()
    (tmp_path / "boxes.json").write_text("[1, 2]")
    with pytest.raises(ModelFileError, match=r"boxes\.json"):
        train(changed(config, output=config.run.output / "again"))
    with pytest.raises(ModelFileError, match="cannot read default boxes"):
        train(changed(config, default_boxes="absent.json", output=config.run.output / "again"))
    with pytest.raises(UsageError, match="7 levels"):
        train(changed(config, default_boxes="ssd512_voc", output=config.run.output / "again"))


@pytest.mark.parametrize("preset", ["small", "torchvision"])
def test_nothing_but_crowds_is_nothing_to_learn(config: TrainConfig, preset: str) -> None:
    dataset = read_dataset(Path(config.data.data))
    crowds = replace(dataset, records=tuple(replace(r, crowd=np.ones(1, bool)) for r in dataset.records))
    with pytest.raises(DatasetError, match="all boxes are crowds"):
        train_on(crowds, dataset, changed(config, preset=preset))
