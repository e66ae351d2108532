"""Pascal VOC folders written by hand."""

from pathlib import Path

import numpy as np
import pytest

from ssd_edge.data.dataset import UNKNOWN_LABEL
from ssd_edge.data.readers import list_splits, read_dataset
from ssd_edge.errors import DatasetError
from tests.ssd_edge.data.dataset_files import names, voc_object, write_image, write_voc, write_voc_split


def test_inclusive_pixels_from_1_become_edges_from_0(tmp_path: Path) -> None:
    objects = voc_object("dog", 1, 1, 100, 50) + voc_object("cat", 11, 21, 30, 40, difficult=1)
    write_voc(tmp_path, "a", objects)
    dataset = read_dataset(tmp_path)
    (record,) = dataset.records
    assert dataset.class_names == ("cat", "dog")
    assert dataset.category_ids == (1, 2)
    np.testing.assert_array_equal(record.boxes_xyxy, [[0, 0, 100, 50], [10, 20, 30, 40]])
    assert record.labels.tolist() == [1, 0]
    assert record.areas.tolist() == [5000, 400]
    assert record.crowd.tolist() == [False, True]
    assert record.size_hw == (50, 100)  # no <size>, so the image's own


def test_dirt_survives_reading(tmp_path: Path) -> None:
    objects = (
        voc_object("dog", 9, 9, 9, 9)
        + voc_object("dog", "x", "", 9, 9)
        + voc_object("dog", 20, 5, 10, 8)
        + voc_object("", 1, 1, 9, 9)
    )
    write_voc(tmp_path, "a", objects)
    (record,) = read_dataset(tmp_path).records
    nan = np.nan
    boxes = [[8, 8, 8, 8], [nan, nan, 9, 9], [19, 4, 9, 8], [0, 0, 9, 9]]
    np.testing.assert_array_equal(record.boxes_xyxy, boxes)
    assert record.labels.tolist() == [0, 0, 0, UNKNOWN_LABEL]


def test_labels_do_not_depend_on_the_split(tmp_path: Path) -> None:
    for stem, name in (("a", "zebra"), ("b", "ant"), ("c", "mule")):
        write_voc(tmp_path, stem, voc_object(name, 1, 1, 9, 9))
    write_voc_split(tmp_path, "train", "a\nc\n")
    write_voc_split(tmp_path, "val", "b\n")
    write_voc_split(tmp_path, "ant_train", "a -1\nc -1\n")  # VOC's list of one class: no split
    assert list_splits(tmp_path) == ["train", "val"]
    train = read_dataset(tmp_path, "train")
    assert train.class_names == ("ant", "mule", "zebra")
    assert names(train) == ["a.jpg", "c.jpg"]
    assert [record.labels.tolist() for record in train.records] == [[2], [1]]
    assert [record.image_id for record in train.records] == [1, 3]
    assert names(read_dataset(tmp_path, "train+val")) == ["a.jpg", "c.jpg", "b.jpg"]
    assert names(read_dataset(tmp_path)) == ["a.jpg", "b.jpg", "c.jpg"]


def test_listed_image_without_annotation_is_kept(tmp_path: Path) -> None:
    write_voc(tmp_path, "a", voc_object("dog", 1, 1, 9, 9))
    write_image(tmp_path / "JPEGImages" / "b.png")
    write_voc_split(tmp_path, "train", "a\nb\n")
    dataset = read_dataset(tmp_path, "train")
    assert names(dataset) == ["a.jpg", "b.png"]
    assert [len(record.labels) for record in dataset.records] == [1, 0]


def test_document_type_is_refused(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE lol [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'
    write_voc(tmp_path, "a", voc_object("&b;", 1, 1, 9, 9), head=bomb)
    with pytest.raises(DatasetError, match=r"a\.xml: it declares a document type"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("encoding", ["GBK", "gb2312", "klingon"])
def test_encoding_that_cannot_be_read_is_named(tmp_path: Path, encoding: str) -> None:
    write_voc(tmp_path, "a", "", head=f'<?xml version="1.0" encoding="{encoding}"?>')
    with pytest.raises(DatasetError, match=r"cannot read .*a\.xml: .*encoding.*; save the file as UTF-8"):
        read_dataset(tmp_path)


def test_broken_xml_is_named(tmp_path: Path) -> None:
    write_voc(tmp_path, "a", "<object>")
    with pytest.raises(DatasetError, match=r"cannot read .*a\.xml"):
        read_dataset(tmp_path)
