"""COCO, VOC and YOLO folders written by hand, and the real ones."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ssd_edge.data.dataset import UNKNOWN_LABEL, DetectionDataset
from ssd_edge.data.lint import lint
from ssd_edge.data.readers import list_splits, read_dataset
from ssd_edge.errors import DatasetError


def write_image(path: Path, width: int = 100, height: int = 50) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((height, width, 3), 128, np.uint8))


def write_coco(file: Path, images: list[Any], annotations: list[Any], categories: list[Any] | None = None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if categories is None:
        categories = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def write_voc(folder: Path, stem: str, objects: str, head: str = "") -> None:
    write_image(folder / "JPEGImages" / f"{stem}.jpg")
    (folder / "Annotations").mkdir(exist_ok=True)
    text = f"<annotation><filename>{stem}.jpg</filename>{objects}</annotation>"
    (folder / "Annotations" / f"{stem}.xml").write_text(head + text)


def voc_object(name: str, *corners: object, difficult: int = 0) -> str:
    sides = "".join(
        f"<{side}>{value}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    )
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{sides}</bndbox></object>"


def write_voc_split(folder: Path, split: str, text: str) -> None:
    (folder / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
    (folder / "ImageSets" / "Main" / f"{split}.txt").write_text(text)


def names(dataset: DetectionDataset) -> list[str]:
    return [record.path.name for record in dataset.records]


class TestCoco:
    def test_boxes_labels_and_gapped_category_ids(self, tmp_path: Path) -> None:
        write_image(tmp_path / "a.png")
        write_coco(
            tmp_path / "boxes.json",
            [{"id": 42, "file_name": "a.png", "width": 100, "height": 50}],
            [
                {"image_id": 42, "category_id": 7, "bbox": [10, 5, 20, 30], "area": 321},
                {"image_id": 42, "category_id": 3, "bbox": [0, 0, 4, 5], "iscrowd": 1},
                {"image_id": 42, "category_id": 8, "bbox": [1, 1, 1, 1]},
            ],
        )
        dataset = read_dataset(tmp_path / "boxes.json")
        (record,) = dataset.records
        assert dataset.class_names == ("cat", "dog")
        assert dataset.category_ids == (3, 7)
        assert (record.image_id, record.size_hw) == (42, (50, 100))
        assert record.path == tmp_path / "a.png"
        np.testing.assert_array_equal(record.boxes_xyxy, [[10, 5, 30, 35], [0, 0, 4, 5], [1, 1, 2, 2]])
        assert record.boxes_xyxy.dtype == np.float32
        assert record.labels.tolist() == [1, 0, UNKNOWN_LABEL]
        assert record.areas.tolist() == [321, 20, 1]
        assert record.crowd.tolist() == [False, True, False]

    def test_dirt_survives_reading(self, tmp_path: Path) -> None:
        write_image(tmp_path / "images" / "a.png", width=64, height=32)
        write_coco(
            tmp_path / "annotations.json",
            [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "gone.png"}],
            [
                {"image_id": 1, "category_id": 3},
                {"image_id": 1, "category_id": 3, "bbox": [1, None, 3, float("nan")]},
                {"image_id": 1, "category_id": 3, "bbox": [5, 5, -2, 0]},
                {"image_id": 99, "category_id": 3, "bbox": [1, 2, 3, 4]},
            ],
        )
        dataset = read_dataset(tmp_path)
        first, gone, unlisted = dataset.records
        assert first.size_hw == (32, 64)  # not annotated, so the image's own
        nan = np.nan
        np.testing.assert_array_equal(first.boxes_xyxy, [[nan] * 4, [1, nan, 4, nan], [5, 5, 3, 5]])
        assert not gone.path.exists()
        assert gone.size_hw == (0, 0)
        assert "99" in unlisted.path.name
        np.testing.assert_array_equal(unlisted.boxes_xyxy, [[1, 2, 4, 6]])

    @pytest.mark.parametrize(
        ("json_file", "image_file"),
        [
            ("annotations/instances_train2017.json", "train2017/a.png"),
            ("annotations/instances_train2017.json", "images/train2017/a.png"),
            ("annotations/train.json", "images/a.png"),
            ("annotations_train.json", "images/train/a.png"),
            ("train/_annotations.coco.json", "train/a.png"),
            ("train.json", "a.png"),
        ],
    )
    def test_layouts(self, tmp_path: Path, json_file: str, image_file: str) -> None:
        write_image(tmp_path / image_file)
        write_coco(tmp_path / json_file, [{"id": 1, "file_name": "a.png"}], [])
        (record,) = read_dataset(tmp_path, "train").records
        assert record.path == tmp_path / image_file

    def test_absolute_file_name(self, tmp_path: Path) -> None:
        write_image(tmp_path / "elsewhere" / "a.png")
        absolute = str(tmp_path / "elsewhere" / "a.png")
        write_coco(tmp_path / "data" / "annotations.json", [{"id": 1, "file_name": absolute}], [])
        assert str(read_dataset(tmp_path / "data").records[0].path) == absolute

    def test_splits_join_and_reused_image_ids_are_numbered_anew(self, tmp_path: Path) -> None:
        for split in ("train", "val"):
            write_image(tmp_path / "images" / f"{split}.png")
            write_image(tmp_path / "images" / "both.png")
            images = [{"id": i, "file_name": f"{name}.png"} for i, name in enumerate((split, "both"))]
            write_coco(tmp_path / "annotations" / f"instances_{split}.json", images, [])
        (tmp_path / "annotations" / "captions_val.json").write_text("{}")
        assert list_splits(tmp_path) == ["train", "val"]
        dataset = read_dataset(tmp_path, "train+val")
        assert names(dataset) == ["train.png", "both.png", "val.png"]
        assert [record.image_id for record in dataset.records] == [1, 2, 3]
        assert names(read_dataset(tmp_path)) == names(dataset)

    def test_splits_with_other_class_lists(self, tmp_path: Path) -> None:
        write_coco(
            tmp_path / "annotations" / "instances_train.json",
            [{"id": 1, "file_name": "a.png"}],
            [{"image_id": 1, "category_id": 5, "bbox": [1, 1, 1, 1]}],
            [{"id": 5, "name": "dog"}],
        )
        val = tmp_path / "annotations" / "instances_val.json"
        images = [{"id": 2, "file_name": "b.png"}]
        annotations = [{"image_id": 2, "category_id": c, "bbox": [1, 1, 1, 1]} for c in (2, 6)]
        write_coco(val, images, annotations, [{"id": 2, "name": "cat"}])
        dataset = read_dataset(tmp_path, "train+val")
        assert dataset.class_names == ("cat", "dog")
        assert [record.labels.tolist() for record in dataset.records] == [[1], [0, UNKNOWN_LABEL]]
        write_coco(val, images, annotations, [{"id": 5, "name": "cat"}])
        with pytest.raises(DatasetError, match=r"category id 5 is 'dog' .* 'cat'"):
            read_dataset(tmp_path, "train+val")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", "is not JSON"),
            ("[" * 100_000, "is not JSON"),
            ("[]", "no list `images`"),
            ('{"images": [], "annotations": []}', "no list `categories`"),
            (
                '{"images": [{"id": 1}], "annotations": [], "categories": []}',
                r"images\[0\] needs id and file_name",
            ),
            ('{"images": [], "annotations": [], "categories": []}', "no classes"),
            ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "no images"),
            ('{"images": [], "annotations": [], "categories": [{"id": "x", "name": "a"}]}', "whole numbers"),
        ],
    )
    def test_files_that_are_not_coco(self, tmp_path: Path, text: str, message: str) -> None:
        (tmp_path / "annotations.json").write_text(text)
        with pytest.raises(DatasetError, match=message):
            read_dataset(tmp_path)

    def test_a_file_name_that_no_file_can_have_is_a_missing_image(self, tmp_path: Path) -> None:
        write_image(tmp_path / "a.png")
        images = [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": 300 * "x" + ".png"}]
        boxes = [{"image_id": i, "category_id": 3, "bbox": [1, 1, 9, 9]} for i in (1, 2)]
        write_coco(tmp_path / "annotations.json", images, boxes)
        usable, report = lint(read_dataset(tmp_path))
        assert names(usable) == ["a.png"]
        assert list(report.findings) == ["missing image"]

    def test_repeated_image_id(self, tmp_path: Path) -> None:
        write_coco(tmp_path / "a.json", [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}], [])
        with pytest.raises(DatasetError, match="image ids repeat"):
            read_dataset(tmp_path / "a.json")


class TestVoc:
    def test_inclusive_pixels_from_1_become_edges_from_0(self, tmp_path: Path) -> None:
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

    def test_dirt_survives_reading(self, tmp_path: Path) -> None:
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

    def test_labels_do_not_depend_on_the_split(self, tmp_path: Path) -> None:
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

    def test_listed_image_without_annotation_is_kept(self, tmp_path: Path) -> None:
        write_voc(tmp_path, "a", voc_object("dog", 1, 1, 9, 9))
        write_image(tmp_path / "JPEGImages" / "b.png")
        write_voc_split(tmp_path, "train", "a\nb\n")
        dataset = read_dataset(tmp_path, "train")
        assert names(dataset) == ["a.jpg", "b.png"]
        assert [len(record.labels) for record in dataset.records] == [1, 0]

    def test_document_type_is_refused(self, tmp_path: Path) -> None:
        bomb = '<!DOCTYPE lol [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'
        write_voc(tmp_path, "a", voc_object("&b;", 1, 1, 9, 9), head=bomb)
        with pytest.raises(DatasetError, match=r"a\.xml: it declares a document type"):
            read_dataset(tmp_path)

    @pytest.mark.parametrize("encoding", ["GBK", "gb2312", "klingon"])
    def test_encoding_that_cannot_be_read_is_named(self, tmp_path: Path, encoding: str) -> None:
        write_voc(tmp_path, "a", "", head=f'<?xml version="1.0" encoding="{encoding}"?>')
        with pytest.raises(DatasetError, match=r"cannot read .*a\.xml: .*encoding.*; save the file as UTF-8"):
            read_dataset(tmp_path)

    def test_broken_xml_is_named(self, tmp_path: Path) -> None:
        write_voc(tmp_path, "a", "<object>")
        with pytest.raises(DatasetError, match=r"cannot read .*a\.xml"):
            read_dataset(tmp_path)


class TestYolo:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        write_image(tmp_path / "images" / "train" / "a.png")
        write_image(tmp_path / "images" / "train" / "b.png")
        write_image(tmp_path / "images" / "val" / "c.png")
        labels = tmp_path / "labels" / "train"
        labels.mkdir(parents=True)
        (labels / "a.txt").write_text("1 0.5 0.5 0.2 0.4\n\n0 0.1 0.2 0.3 0.2 0.3 0.6\n")
        return tmp_path

    @pytest.mark.parametrize("yaml_names", ["[cat, dog]", "{0: cat, 1: dog}"])
    def test_yaml(self, folder: Path, yaml_names: str) -> None:
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

    def test_folder_with_classes_txt(self, folder: Path) -> None:
        (folder / "classes.txt").write_text("cat\ndog\n")
        assert list_splits(folder) == ["train", "val"]
        assert read_dataset(folder, "train").records[0].labels.tolist() == [1, 0]

    def test_folder_without_splits(self, tmp_path: Path) -> None:
        write_image(tmp_path / "images" / "a.png")
        (tmp_path / "labels").mkdir()
        (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 1 1")
        (tmp_path / "labels" / "classes.txt").write_text("cat")
        np.testing.assert_array_equal(read_dataset(tmp_path).records[0].boxes_xyxy, [[0, 0, 100, 50]])

    def test_list_file_and_labels_beside_the_images(self, tmp_path: Path) -> None:
        write_image(tmp_path / "pictures" / "a.png")
        (tmp_path / "pictures" / "a.txt").write_text("0 0.5 0.5 1 1")
        (tmp_path / "train.txt").write_text("pictures/a.png\n")
        (tmp_path / "my.yaml").write_text("train: train.txt\nnames: [cat]\n")
        np.testing.assert_array_equal(read_dataset(tmp_path).records[0].boxes_xyxy, [[0, 0, 100, 50]])

    def test_dirt_survives_reading(self, folder: Path) -> None:
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
    def test_yaml_that_is_no_dataset(self, folder: Path, text: str, message: str) -> None:
        (folder / "data.yaml").write_text(text)
        with pytest.raises(DatasetError, match=message):
            read_dataset(folder / "data.yaml")

    @pytest.mark.parametrize("split", [None, "train"])
    def test_images_that_are_not_there_are_named(self, folder: Path, split: str | None) -> None:
        text = f"path: elsewhere\ntrain: ../gone\nval: [{300 * 'x'}]\nnames: [cat]\n"
        (folder / "data.yaml").write_text(text)
        with pytest.raises(DatasetError) as error:
            read_dataset(folder / "data.yaml", split)
        assert "its images are not there" in str(error.value)
        for tried in ("elsewhere/../gone", "elsewhere/gone", "../gone", "gone", f"elsewhere/{300 * 'x'}"):
            assert f" {folder}/{tried}" in str(error.value)

    def test_classes_txt_that_is_not_utf8(self, folder: Path) -> None:
        (folder / "classes.txt").write_bytes("kočka".encode("latin2"))
        with pytest.raises(DatasetError, match=r"cannot read .*classes\.txt: .*; save it as UTF-8"):
            read_dataset(folder)

    def test_no_class_names(self, folder: Path) -> None:
        with pytest.raises(DatasetError, match=r"write classes\.txt"):
            read_dataset(folder)


class TestDispatch:
    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match="no such file or folder"):
            read_dataset(tmp_path / "gone")

    def test_unknown_format_says_what_was_looked_for(self, tmp_path: Path) -> None:
        write_image(tmp_path / "a.png")
        with pytest.raises(DatasetError, match=r"(?s)COCO: .*Pascal VOC: .*YOLO: "):
            read_dataset(tmp_path)
        with pytest.raises(DatasetError, match="not a dataset"):
            read_dataset(tmp_path / "a.png")

    def test_unknown_split_names_the_others(self, tmp_path: Path) -> None:
        write_voc(tmp_path, "a", voc_object("dog", 1, 1, 9, 9))
        with pytest.raises(DatasetError, match="'test' does not exist; this dataset has no splits"):
            read_dataset(tmp_path, "test")
        write_voc_split(tmp_path, "train", "a")
        write_voc_split(tmp_path, "valid", "a")
        with pytest.raises(DatasetError, match="'test' does not exist; there are train, valid"):
            read_dataset(tmp_path, "train+test")
        assert len(read_dataset(tmp_path, "val")) == 1

    def test_empty_split(self, tmp_path: Path) -> None:
        write_voc(tmp_path, "a", voc_object("dog", 1, 1, 9, 9))
        write_voc_split(tmp_path, "train", "")
        with pytest.raises(DatasetError, match="no images in split 'train'"):
            read_dataset(tmp_path, "train")

    def test_fingerprint_follows_the_content_and_not_the_place(self, tmp_path: Path) -> None:
        fingerprints = []
        for folder, xmax in (("one", 9), ("two", 9), ("three", 8)):
            (tmp_path / folder).mkdir()
            for stem in ("a", "b"):
                write_voc(tmp_path / folder, stem, voc_object("dog", 1, 1, xmax, 9))
            fingerprints.append(read_dataset(tmp_path / folder).fingerprint())
        assert fingerprints[0] == fingerprints[1] != fingerprints[2]
        assert len(fingerprints[0]) == 64

    def test_fingerprint_of_relative_paths_and_of_some_absolute(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        fingerprints = []
        for first in ("a.png", str(tmp_path / "data" / "a.png")):
            images = [{"id": i, "file_name": n, "width": 9, "height": 9} for i, n in enumerate((first, "b.png"))]
            for name in ("a.png", "b.png"):
                write_image(tmp_path / "data" / name)
            write_coco(tmp_path / "data" / "annotations.json", images, [])
            fingerprints.append(read_dataset(Path("data")).fingerprint())
        fingerprints.append(read_dataset(tmp_path / "data").fingerprint())
        assert len(set(fingerprints)) == 1


class TestRealData:
    def test_bccd(self, shared_data: Path) -> None:
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

    def test_coco128_is_the_same_as_coco_and_as_yolo(self, shared_data: Path) -> None:
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
