"""How formats and splits are told apart; and the real datasets."""

from pathlib import Path

import numpy as np
import pytest

from ssd_edge.data.readers import read_dataset
from ssd_edge.errors import DatasetError
from tests.ssd_edge.data.dataset_files import voc_object, write_image, write_voc, write_voc_split


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file or folder"):
        read_dataset(tmp_path / "gone")


def test_unknown_format_says_what_was_looked_for(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    with pytest.raises(DatasetError, match=r"(?s)COCO: .*Pascal VOC: .*YOLO: "):
        read_dataset(tmp_path)
    with pytest.raises(DatasetError, match="not a dataset"):
        read_dataset(tmp_path / "a.png")


def test_unknown_split_names_the_others(tmp_path: Path) -> None:
    write_voc(tmp_path, "a", voc_object("dog", 1, 1, 9, 9))
    with pytest.raises(DatasetError, match="'test' does not exist; this dataset has no splits"):
        read_dataset(tmp_path, "test")
    write_voc_split(tmp_path, "train", "a")
    write_voc_split(tmp_path, "valid", "a")
    with pytest.raises(DatasetError, match="'test' does not exist; there are train, valid"):
        read_dataset(tmp_path, "train+test")
    assert len(read_dataset(tmp_path, "val")) == 1


def test_empty_split(tmp_path: Path) -> None:
    write_voc(tmp_path, "a", voc_object("dog", 1, 1, 9, 9))
    write_voc_split(tmp_path, "train", "")
    with pytest.raises(DatasetError, match="no images in split 'train'"):
        read_dataset(tmp_path, "train")


def test_bccd(shared_data: Path) -> None:
    folder = shared_data / "bccd"
    counts = {split: len(read_dataset(folder, split)) for split in ("train", "val", "test", "train+val")}
    assert counts == {"train": 205, "val": 87, "test": 72, "train+val": 292}
    dataset = read_dataset(folder)
    assert dataset.class_names == ("Platelets", "RBC", "WBC")
    labels = np.concatenate([record.labels for record in dataset.records])
    assert np.bincount(labels).tolist() == [361, 4155, 372]
    first = dataset.records[0]
    assert first.path.name == "BloodImage_00000.jpg"
    assert first.boxes_xyxy[0].tolist() == [259, 176, 491, 376]  # xmin 260, ymin 177, xmax 491, ymax 376


def test_coco128_is_the_same_as_coco_and_as_yolo(shared_data: Path) -> None:
    coco = read_dataset(shared_data / "coco128", "train")
    yolo = read_dataset(shared_data / "coco128" / "coco128.yaml", "train")
    assert len(coco) == len(yolo) == 128
    assert coco.class_names == yolo.class_names
    assert len(coco.class_names) == 80
    assert coco.category_ids[-1] == 90
    assert yolo.category_ids[-1] == 79
    of_yolo = {record.path.name: record for record in yolo.records}
    for record in coco.records:
        same = of_yolo[record.path.name]
        assert record.size_hw == same.size_hw
        assert record.labels.tolist() == same.labels.tolist()
        np.testing.assert_allclose(record.boxes_xyxy, same.boxes_xyxy, atol=0.01)
    assert sum(len(record.labels) for record in coco.records) == 929
