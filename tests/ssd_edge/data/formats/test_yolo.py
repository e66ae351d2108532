"""YOLO folders written by hand."""

from pathlib import Path

import numpy as np
import pytest

from ssd_edge.data.dataset import UNKNOWN_LABEL
from ssd_edge.data.readers import list_splits, read_dataset
from ssd_edge.errors import DatasetError
from tests.ssd_edge.data.dataset_files import names, write_image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_image(tmp_path / "images" / "train" / "a.png")
    write_image(tmp_path / "images" / "train" / "b.png")
    write_image(tmp_path / "images" / "val" / "c.png")
    labels = tmp_path / "labels" / "train"
    labels.mkdir(parents=True)
    (labels / "a.txt").write_text("1 0.5 0.5 0.2 0.4\n\n0 0.1 0.2 0.3 0.2 0.3 0.6\n")
    return tmp_path


@pytest.mark.parametrize("yaml_names", ["[cat, dog]", "{0: cat, 1: dog}"])
def test_yaml(folder: Path, yaml_names: str) -> None:
    splits = "train: images/train\nval: ../images/val\ntest: images/test\n"
    (folder / "data.yaml").write_text(f"path: ../nowhere\n{splits}names: {yaml_names}\n")
    assert list_splits(folder) == ["train", "val"]
    dataset = read_dataset(folder / "data.yaml", "train")
    assert dataset.class_names == ("cat", "dog")
    assert dataset.category_ids == (0, 1)
    assert names(dataset) == ["a.png", "b.png"]
    first, second = dataset.records
    # centre 50, 25, sides 20, 20; the polygon spans x 0.1–0.3, y 0.2–0.6
    np.testing.assert_allclose(first.boxes_xyxy, [[40, 15, 60, 35], [10, 10, 30, 30]], atol=1e-4)
    assert first.labels.tolist() == [1, 0]
    assert first.size_hw == (50, 100)
    assert len(second.labels) == 0
    assert names(read_dataset(folder)) == ["a.png", "b.png", "c.png"]


def test_folder_with_classes_txt(folder: Path) -> None:
    (folder / "classes.txt").write_text("cat\ndog\n")
    assert list_splits(folder) == ["train", "val"]
    assert read_dataset(folder, "train").records[0].labels.tolist() == [1, 0]


def test_folder_without_splits(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 1 1")
    (tmp_path / "labels" / "classes.txt").write_text("cat")
    np.testing.assert_array_equal(read_dataset(tmp_path).records[0].boxes_xyxy, [[0, 0, 100, 50]])


def test_list_file_and_labels_beside_the_images(tmp_path: Path) -> None:
    write_image(tmp_path / "pictures" / "a.png")
    (tmp_path / "pictures" / "a.txt").write_text("0 0.5 0.5 1 1")
    (tmp_path / "train.txt").write_text("pictures/a.png\n")
    (tmp_path / "my.yaml").write_text("train: train.txt\nnames: [cat]\n")
    np.testing.assert_array_equal(read_dataset(tmp_path).records[0].boxes_xyxy, [[0, 0, 100, 50]])


def test_dirt_survives_reading(folder: Path) -> None:
    (folder / "classes.txt").write_text("cat\ndog\n")
    (folder / "labels" / "train" / "a.txt").write_text("2 0.5 0.5 1 1\n0 0.5 x 1 1\n0 0.5 0.5\n? 0.5 0.5 1 1\n")
    record = read_dataset(folder, "train").records[0]
    assert record.labels.tolist() == [UNKNOWN_LABEL, 0, 0, UNKNOWN_LABEL]
    assert np.isnan(record.boxes_xyxy).any(axis=1).tolist() == [False, True, True, False]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: images/train", "no `names`"),
        ("train: images/train\nnames: {a: cat}", "whole numbers"),
        ("names: [", "cannot read"),
        ("names: " + "[" * 5000, "cannot read"),
        ("names: [cat]", "none of train, val, test; add where the images are"),
    ],
)
def test_yaml_that_is_no_dataset(folder: Path, text: str, message: str) -> None:
    (folder / "data.yaml").write_text(text)
    with pytest.raises(DatasetError, match=message):
        read_dataset(folder / "data.yaml")


@pytest.mark.parametrize("split", [None, "train"])
def test_images_that_are_not_there_are_named(folder: Path, split: str | None) -> None:
    text = f"path: elsewhere\ntrain: ../gone\nval: [{300 * 'x'}]\nnames: [cat]\n"
    (folder / "data.yaml").write_text(text)
    with pytest.raises(DatasetError) as error:
        read_dataset(folder / "data.yaml", split)
    assert "its images are not there" in str(error.value)
    for tried in ("elsewhere/../gone", "elsewhere/gone", "../gone", "gone", f"elsewhere/{300 * 'x'}"):
        assert f" {folder}/{tried}" in str(error.value)


def test_classes_txt_that_is_not_utf8(folder: Path) -> None:
    (folder / "classes.txt").write_bytes("kočka".encode("latin2"))
    with pytest.raises(DatasetError, match=r"cannot read .*classes\.txt: .*; save it as UTF-8"):
        read_dataset(folder)


def test_no_class_names(folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"write classes\.txt"):
        read_dataset(folder)
