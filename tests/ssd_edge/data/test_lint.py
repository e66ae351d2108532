"""One problem of each kind, written by hand, and the dirt of the real datasets."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from ssd_edge.data.dataset import UNKNOWN_LABEL, DetectionDataset, ImageRecord, box_areas
from ssd_edge.data.lint import lint
from ssd_edge.data.readers import read_dataset
from ssd_edge.errors import DatasetError

GOOD = [10.0, 10.0, 30.0, 40.0]


def write_record(
    path: Path,
    boxes: list[list[float]],
    labels: list[int] | None = None,
    size_hw: tuple[int, int] = (50, 100),
    image_id: int = 1,
) -> ImageRecord:
    """A record whose image, 100×50, is written to `path`."""
    assert cv2.imwrite(str(path), np.full((50, 100, 3), 128, np.uint8))
    boxes_xyxy = np.array(boxes, np.float32).reshape(-1, 4)
    label_array = np.array(labels if labels is not None else [0] * len(boxes), np.int64)
    return ImageRecord(
        path,
        image_id,
        size_hw,
        boxes_xyxy,
        label_array,
        box_areas(boxes_xyxy),
        np.zeros(len(boxes), np.bool_),
    )


def dataset_of(*records: ImageRecord) -> DetectionDataset:
    return DetectionDataset("pets", ("cat", "dog"), (1, 2), records)


def test_clean(tmp_path: Path) -> None:
    dataset = dataset_of(write_record(tmp_path / "a.png", [GOOD]))
    usable, report = lint(dataset, strict=True)
    assert report.ok
    assert str(report) == "pets: all 1 images and all 1 boxes are usable"
    assert usable.fingerprint() == dataset.fingerprint()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("box", "label", "kind", "place"),
    [
        ([5, 5, 5, 9], 1, "degenerate box", "a.png: dog 5,5,5,9"),
        ([5, 9, 8, 5], 0, "degenerate box", "a.png: cat 5,9,8,5"),
        ([np.nan, 5, 6, 9], 0, "box with NaN or infinity", "a.png: cat nan,5,6,9"),
        ([0, 5, np.inf, 9], 0, "box with NaN or infinity", "a.png: cat 0,5,inf,9"),
        ([100, 5, 120, 9], 0, "box outside the image", "a.png: cat 100,5,120,9"),
        ([-20, -20, 0, 9], 0, "box outside the image", "a.png: cat -20,-20,0,9"),
        ([5, 5, 6, 9], UNKNOWN_LABEL, "unknown class", "a.png: ? 5,5,6,9"),
        (GOOD, 0, "duplicate box", "a.png: cat 10,10,30,40"),
    ],
)
def test_box_that_is_left_out(tmp_path: Path, box: list[float], label: int, kind: str, place: str) -> None:
    usable, report = lint(dataset_of(write_record(tmp_path / "a.png", [GOOD, box], [0, label])))
    assert report.findings == {kind: [place]}
    assert report.boxes == (1, 2)
    assert usable.records[0].boxes_xyxy.tolist() == [GOOD]
    assert usable.records[0].labels.tolist() == [0]


def test_box_partly_outside_is_clipped(tmp_path: Path) -> None:
    usable, report = lint(dataset_of(write_record(tmp_path / "a.png", [[-10, 20, 30, 60]])))
    assert report.findings == {"box partly outside": ["a.png: cat -10,20,30,60"]}
    assert usable.records[0].boxes_xyxy.tolist() == [[0, 20, 30, 50]]
    assert usable.records[0].areas.tolist() == [900]


def test_rounding_is_clipped_without_a_word(tmp_path: Path) -> None:
    usable, report = lint(dataset_of(write_record(tmp_path / "a.png", [[-1, 0, 100.5, 50]])), strict=True)
    assert report.ok
    assert usable.records[0].boxes_xyxy.tolist() == [[0, 0, 100, 50]]


def test_same_box_of_another_class_is_no_duplicate(tmp_path: Path) -> None:
    assert lint(dataset_of(write_record(tmp_path / "a.png", [GOOD, GOOD], [0, 1])))[1].ok


def test_images_that_are_left_out(tmp_path: Path) -> None:
    missing = write_record(tmp_path / "missing.png", [GOOD], image_id=2)
    missing.path.unlink()
    corrupt = write_record(tmp_path / "corrupt.png", [GOOD], image_id=3)
    corrupt.path.write_bytes(b"no image at all")
    empty = write_record(tmp_path / "empty.png", [GOOD], image_id=4)
    empty.path.write_bytes(b"")
    resized = write_record(tmp_path / "resized.png", [GOOD], size_hw=(100, 200), image_id=5)
    useless = write_record(tmp_path / "useless.png", [[5, 5, 5, 5]], image_id=6)
    good = write_record(tmp_path / "good.png", [GOOD])
    usable, report = lint(dataset_of(good, missing, corrupt, empty, resized, useless))
    assert [record.path.name for record in usable.records] == ["good.png"]
    assert report.images == (1, 6)
    assert report.findings == {
        "missing image": ["missing.png"],
        "corrupt image": ["corrupt.png", "empty.png"],
        "image size differs from the annotation": ["resized.png: is 100×50, annotated 200×100"],
        "image without a usable box": ["useless.png"],
        "degenerate box": ["useless.png: cat 5,5,5,5"],
    }


def test_image_without_labels_stays_as_background(tmp_path: Path) -> None:
    background = write_record(tmp_path / "b.png", [], image_id=2)
    usable, report = lint(dataset_of(write_record(tmp_path / "a.png", [GOOD]), background))
    assert len(usable) == 2
    assert report.findings == {"image without labels": ["b.png"]}
    assert not report.ok


def test_report_names_the_first_few(tmp_path: Path) -> None:
    flat = [[float(x), 5.0, float(x), 9.0] for x in range(5)]
    _, report = lint(dataset_of(write_record(tmp_path / "a.png", [GOOD, *flat])))
    assert str(report).splitlines() == [
        "pets: all 1 images and 1 of 6 boxes are usable",
        "      5 × degenerate box (box left out: no width or height): "
        "a.png: cat 0,5,0,9, a.png: cat 1,5,1,9, a.png: cat 2,5,2,9, …",
    ]


def test_strict(tmp_path: Path) -> None:
    dataset = dataset_of(write_record(tmp_path / "a.png", [GOOD, [5, 5, 5, 9]]))
    with pytest.raises(DatasetError, match=r"(?s)not clean.*1 × degenerate box"):
        lint(dataset, strict=True)


def test_nothing_usable(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"(?s)no image with a usable box.*1 × degenerate box"):
        lint(dataset_of(write_record(tmp_path / "a.png", [[5, 5, 5, 9]])))


def test_files_are_not_touched(tmp_path: Path) -> None:
    dataset = dataset_of(write_record(tmp_path / "a.png", [GOOD, [5, 5, 5, 9], [-10, 20, 30, 60]]))
    before = dataset.fingerprint(), (tmp_path / "a.png").read_bytes()
    lint(dataset)
    assert (dataset.fingerprint(), (tmp_path / "a.png").read_bytes()) == before


def test_real_dirt(shared_data: Path) -> None:
    _, bccd = lint(read_dataset(shared_data / "bccd"))
    assert bccd.images == (364, 364)
    assert bccd.boxes == (4886, 4888)
    assert bccd.findings == {
        "degenerate box": [
            "BloodImage_00338.jpg: RBC 503,336,503,336",
            "BloodImage_00343.jpg: RBC 180,328,180,328",
        ]
    }
    _, coco128 = lint(read_dataset(shared_data / "coco128"))
    assert coco128.findings == {"image without labels": ["000000000250.jpg", "000000000508.jpg"]}
