"""Which images are trained on, which are evaluated on, and what is said about both."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ssd_edge.data.codes.write import write_coco
from ssd_edge.data.readers import read_dataset
from ssd_edge.errors import DatasetError
from ssd_edge.training.config import RunSettings, TrainConfig
from ssd_edge.training.splits import DataSettings, hold_out, shared_images
from tests.detectors.tiny_arch import write_yolo
from tests.ssd_edge.training.configs import changed, read_images

SPLIT = {"train": (0, 1, 2, 3), "val": (3, 4, 5)}


def sizes(config: TrainConfig) -> tuple[int, int]:
    train_set, val_set = read_images(config)
    assert train_set.class_names == val_set.class_names
    return len(train_set), len(val_set)


def test_splits_are_chosen_and_may_be_named(shared_data: Path, tmp_path: Path) -> None:
    config = TrainConfig(DataSettings(str(shared_data / "bccd")), RunSettings(tmp_path))
    assert sizes(config) == (205, 87)
    assert sizes(changed(config, split="train+val", val_split="test")) == (292, 72)
    # val is part of what is trained on, and test is never taken unasked: it would choose best.pt
    assert sizes(changed(config, split="train+val")) == (263, 29)


def test_the_usual_coco_folder_names(tmp_path: Path) -> None:
    for split, first in (("train2017", 0), ("val2017", 100)):
        write_coco(tmp_path / "data" / split, count=3 if first else 4, seed=0, first_index=first, size_hw=(64, 64))
        (tmp_path / "data" / "annotations").mkdir(exist_ok=True)
        written = json.loads((tmp_path / "data" / split / "annotations.json").read_text())
        for image in written["images"]:
            image["file_name"] = f"../{split}/images/{image['file_name']}"
        (tmp_path / "data" / "annotations" / f"instances_{split}.json").write_text(json.dumps(written))
        (tmp_path / "data" / split / "annotations.json").unlink()
    assert sizes(TrainConfig(DataSettings(str(tmp_path / "data")), RunSettings(tmp_path / "run"))) == (4, 3)


def test_evaluation_images_that_are_trained_on_are_warned_of(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    yaml = tmp_path / "data.yaml"
    yaml.write_text(f"path: {config.data.data}\ntrain: images\nval: images\nnames: [square]\n")
    assert sizes(changed(config, data=str(yaml), split="train", val_split="val")) == (6, 6)
    assert "warning: 6 of the 6 evaluation images are trained on too" in capsys.readouterr().err
    for name in ("train", "val"):  # an image in both is no reason to do without the split
        (tmp_path / f"{name}.txt").write_text("\n".join(f"{config.data.data}/images/{i}.png" for i in SPLIT[name]))
    lists = tmp_path / "lists.yaml"
    lists.write_text(f"path: {tmp_path}\ntrain: train.txt\nval: val.txt\nnames: [square]\n")
    assert sizes(changed(config, data=str(lists))) == (4, 3)
    assert "warning: 1 of the 3 evaluation images are trained on too" in capsys.readouterr().err
    assert sizes(changed(config, data=str(yaml))) == (5, 1)  # not asked for, so not done


def test_a_copy_under_another_name_is_in_two_splits_too(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_yolo(tmp_path / "other", 8)  # the first six are those of `config`
    (other / "images" / "7.png").rename(other / "images" / "6.png")
    copies = shared_images(read_dataset(Path(config.data.data)), read_dataset(other))
    assert copies == 6
    (tmp_path / "train.txt").write_text("\n".join(f"{config.data.data}/images/{i}.png" for i in range(6)))
    (tmp_path / "val.txt").write_text("\n".join(f"{other}/images/{i}.png" for i in (5, 6)))
    lists = tmp_path / "lists.yaml"
    lists.write_text(f"path: {tmp_path}\ntrain: train.txt\nval: val.txt\nnames: [square]\n")
    assert sizes(changed(config, data=str(lists))) == (6, 2)
    assert "warning: 1 of the 2 evaluation images are trained on too" in capsys.readouterr().err


def test_a_tenth_of_the_labelled_images_is_held_out(config: TrainConfig, tmp_path: Path) -> None:
    dataset = read_dataset(write_yolo(tmp_path / "twenty", 20))
    labelled = dataset.records[5:]
    backgrounds = tuple(record.select(np.zeros(1, bool)) for record in dataset.records[:5])
    dataset = replace(dataset, records=backgrounds + labelled)
    train_set, val_set = hold_out(dataset, seed=0)
    assert (len(train_set), len(val_set)) == (18, 2)
    assert all(len(record.labels) for record in val_set.records)
    assert len({record.path for record in train_set.records + val_set.records}) == 20
    one = replace(dataset, records=labelled[:1])
    assert [len(part) for part in hold_out(one, seed=0)] == [1, 1]
    with pytest.raises(DatasetError, match="none of 5 images has a box"):
        hold_out(replace(dataset, records=backgrounds), seed=0)


def test_the_held_out_images_can_be_evaluated_later(config: TrainConfig) -> None:
    _, val_set = read_images(config)
    listed = read_dataset(config.run.output / "held_out.json")
    assert [record.path for record in listed.records] == [record.path.absolute() for record in val_set.records]
    np.testing.assert_allclose(listed.records[0].boxes_xyxy, val_set.records[0].boxes_xyxy)
