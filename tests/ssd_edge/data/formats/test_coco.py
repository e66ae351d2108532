"""COCO folders written by hand."""

from pathlib import Path

import numpy as np
import pytest

from ssd_edge.data.dataset import UNKNOWN_LABEL
from ssd_edge.data.lint import lint
from ssd_edge.data.readers import list_splits, read_dataset
from ssd_edge.errors import DatasetError
from tests.ssd_edge.data.dataset_files import names, write_coco, write_image


def test_boxes_labels_and_gapped_category_ids(tmp_path: Path) -> None:
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


def test_dirt_survives_reading(tmp_path: Path) -> None:
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
def test_layouts(tmp_path: Path, json_file: str, image_file: str) -> None:
    write_image(tmp_path / image_file)
    write_coco(tmp_path / json_file, [{"id": 1, "file_name": "a.png"}], [])
    (record,) = read_dataset(tmp_path, "train").records
    assert record.path == tmp_path / image_file


def test_absolute_file_name(tmp_path: Path) -> None:
    write_image(tmp_path / "elsewhere" / "a.png")
    absolute = str(tmp_path / "elsewhere" / "a.png")
    write_coco(tmp_path / "data" / "annotations.json", [{"id": 1, "file_name": absolute}], [])
    assert str(read_dataset(tmp_path / "data").records[0].path) == absolute


def test_splits_join_and_reused_image_ids_are_numbered_anew(tmp_path: Path) -> None:
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


def test_splits_with_other_class_lists(tmp_path: Path) -> None:
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
def test_files_that_are_not_coco(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "annotations.json").write_text(text)
    with pytest.raises(DatasetError, match=message):
        read_dataset(tmp_path)


def test_a_file_name_that_no_file_can_have_is_a_missing_image(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    images = [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": 300 * "x" + ".png"}]
    boxes = [{"image_id": i, "category_id": 3, "bbox": [1, 1, 9, 9]} for i in (1, 2)]
    write_coco(tmp_path / "annotations.json", images, boxes)
    usable, report = lint(read_dataset(tmp_path))
    assert names(usable) == ["a.png"]
    assert list(report.findings) == ["missing image"]


def test_repeated_image_id(tmp_path: Path) -> None:
    write_coco(tmp_path / "a.json", [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}], [])
    with pytest.raises(DatasetError, match="image ids repeat"):
        read_dataset(tmp_path / "a.json")
