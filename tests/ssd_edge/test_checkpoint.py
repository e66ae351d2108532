"""Checkpoints round-trip, and what is no checkpoint is refused with the reason."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssd_edge.checkpoint import Checkpoint, load_checkpoint, model_from_checkpoint, save_checkpoint
from ssd_edge.errors import ModelFileError, SinkError
from ssd_edge.models.create import create_model
from tests.ssd_edge.exploit import Exploit


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    torch.manual_seed(0)
    model = create_model("ssdlite320_mobilenet_v3_large", 2)
    card = model.make_card(("cat", "dog"), (17, 18))
    return Checkpoint(card, model.state_dict(), {"step": 3})


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_round_trip(checkpoint: Checkpoint, tmp_path: Path, name: str) -> None:
    save_checkpoint(tmp_path / name, checkpoint)
    loaded = load_checkpoint(tmp_path / name)
    assert loaded.card == checkpoint.card
    assert loaded.state_dict.keys() == checkpoint.state_dict.keys()
    assert all(torch.equal(loaded.state_dict[k], v) for k, v in checkpoint.state_dict.items())
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_training_state_travels_in_pt_only(checkpoint: Checkpoint, tmp_path: Path) -> None:
    for name, expected in (("model.pt", {"step": 3}), ("model.safetensors", {})):
        save_checkpoint(tmp_path / name, checkpoint)
        assert load_checkpoint(tmp_path / name).training == expected


def test_half_precision_is_read_as_float(checkpoint: Checkpoint, tmp_path: Path) -> None:
    half = {k: v.half() if v.is_floating_point() else v for k, v in checkpoint.state_dict.items()}
    save_checkpoint(tmp_path / "half.pt", replace(checkpoint, state_dict=half))
    model, card = model_from_checkpoint(tmp_path / "half.pt")
    assert card.class_names == ("cat", "dog")
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_checkpoint_that_needs_pickle_is_refused(tmp_path: Path) -> None:
    torch.save({"model": Exploit()}, tmp_path / "evil.pt")
    with pytest.raises(ModelFileError, match="could run code that it brings along"):
        load_checkpoint(tmp_path / "evil.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Exploit(), protocol=2))
    with pytest.raises(ModelFileError, match="not a PyTorch checkpoint"):
        load_checkpoint(tmp_path / "plain.pt")


def test_what_is_no_checkpoint(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no checkpoint at"):
        load_checkpoint(tmp_path / "absent.pt")
    (tmp_path / "text.pt").write_text("not a checkpoint")
    with pytest.raises(ModelFileError, match="not a"):
        load_checkpoint(tmp_path / "text.pt")
    (tmp_path / "empty.pt").touch()
    with pytest.raises(ModelFileError, match="not a"):
        load_checkpoint(tmp_path / "empty.pt")
    (tmp_path / "text.safetensors").write_text("not a checkpoint")
    with pytest.raises(ModelFileError, match="not a readable safetensors file"):
        load_checkpoint(tmp_path / "text.safetensors")
    torch.save(checkpoint.state_dict, tmp_path / "plain.pt")
    with pytest.raises(ModelFileError, match=r"names are not in the file; run ssd-edge import"):
        load_checkpoint(tmp_path / "plain.pt")
    save_checkpoint(tmp_path / "whole.pt", checkpoint)
    (tmp_path / "cut.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:100_000])
    with pytest.raises(ModelFileError, match="not a"):
        load_checkpoint(tmp_path / "cut.pt")


@pytest.mark.parametrize(
    "change",
    [
        {"card": None},
        {"card": {"arch": "fixed"}},
        {"model": None},
        {"model": [1, 2]},
        {"model": {"weight": 1.0}},
        {"model": {1: torch.zeros(1)}},
        {"training": [1]},
    ],
    ids=repr,
)
def test_a_checkpoint_that_is_not_whole(checkpoint: Checkpoint, tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "model.pt"
    save_checkpoint(path, checkpoint)
    torch.save({**torch.load(path, weights_only=True), **change}, path)
    with pytest.raises(ModelFileError, match=rf"{path} is not whole"):
        load_checkpoint(path)


@pytest.mark.parametrize("key", ["card", "model"])
def test_a_checkpoint_without_one_of_its_parts(checkpoint: Checkpoint, tmp_path: Path, key: str) -> None:
    path = tmp_path / "model.pt"
    save_checkpoint(path, checkpoint)
    content = torch.load(path, weights_only=True)
    del content[key]
    torch.save(content, path)
    with pytest.raises(ModelFileError, match=rf"{path} is not whole"):
        load_checkpoint(path)


def test_damaged_bytes_are_always_one_kind_of_error(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """torch itself fails on such files with UnicodeDecodeError, IndexError, AssertionError and more."""
    path = tmp_path / "model.pt"
    save_checkpoint(path, replace(checkpoint, state_dict={"weight": torch.zeros(3)}))
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[random.integers(len(whole), size=5)] = random.integers(256, size=5)
        path.write_bytes(damaged.tobytes())
        try:
            load_checkpoint(path)
        except ModelFileError:
            refused += 1
    assert refused > 100


def test_a_card_that_does_not_fit_the_weights(checkpoint: Checkpoint, tmp_path: Path) -> None:
    cases: dict[str, dict[str, Any]] = {
        "the weights do not fit the card": {"class_names": ("cat",), "category_ids": (17,)},
        "architecture 'yolo'": {"arch": "yolo"},
    }
    for message, change in cases.items():
        save_checkpoint(tmp_path / "model.pt", replace(checkpoint, card=replace(checkpoint.card, **change)))
        with pytest.raises(ModelFileError, match=message):
            model_from_checkpoint(tmp_path / "model.pt")


def test_default_boxes_that_do_not_fit(checkpoint: Checkpoint, tmp_path: Path) -> None:
    six = {"aspect_ratios": [[2]] * 6, "scales": [0.1] * 7, "steps": None, "clip": True}
    cases = {
        "the weights do not fit the card": six,  # 4 boxes a cell, where the weights have 6
        "default boxes for 1 levels, but ssdlite320_mobilenet_v3_large has 6": {
            **six,
            "aspect_ratios": [[2]],
            "scales": [1, 1],
        },
        "6 levels need 7 scales, got 2": {**six, "scales": [1, 1]},
    }
    for message, boxes in cases.items():
        card = replace(checkpoint.card, default_boxes=boxes)
        save_checkpoint(tmp_path / "model.pt", replace(checkpoint, card=card))
        with pytest.raises(ModelFileError, match=f"^{tmp_path / 'model.pt'}: .*{message}"):
            model_from_checkpoint(tmp_path / "model.pt")


def test_an_unwritable_folder_keeps_the_old_file(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(SinkError, match="cannot write"):
        save_checkpoint(tmp_path / "file" / "model.pt", checkpoint)
    assert (tmp_path / "file").read_text() == "old"
