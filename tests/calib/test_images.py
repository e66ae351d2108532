"""Which images are chosen: evenly over classes and sizes, the same ones every time."""

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from ssd_edge.calib.images import CalibrationImages, calibration_images, choose_images, preprocess_probe
from ssd_edge.data.dataset import DetectionDataset, ImageRecord
from ssd_edge.errors import DatasetError, UsageError

CLASSES = ("common", "rare", "rarest")


def write_image(path: Path, size_hw: tuple[int, int] = (6, 8), grey: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((*size_hw, 3), grey, np.uint8))
    return path


def record(path: Path, labels: Sequence[int], side: float = 60, size_hw: tuple[int, int] = (480, 640)) -> ImageRecord:
    boxes = np.tile(np.array([0, 0, side, side], np.float32), (len(labels), 1))
    labels_array = np.array(labels, np.int64)
    return ImageRecord(path, 1, size_hw, boxes, labels_array, boxes[:, 2] ** 2, np.zeros(len(labels), np.bool_))


def dataset(records: Sequence[ImageRecord]) -> DetectionDataset:
    return DetectionDataset("made", CLASSES, (1, 2, 3), tuple(records))


@pytest.fixture
def unbalanced(tmp_path: Path) -> DetectionDataset:
    """80 images of one class, 8 of another, 2 of the third, 10 without a box."""
    labels = [[0]] * 80 + [[1]] * 8 + [[2]] * 2 + [[]] * 10
    paths = [write_image(tmp_path / f"{i:03}.png") for i in range(len(labels))]
    return dataset([record(path, of_image) for path, of_image in zip(paths, labels, strict=True)])


def classes_of(chosen: CalibrationImages, source: DetectionDataset) -> Counter[int]:
    """Images by class; -1 for those without a box."""
    labels = {r.path: r.labels for r in source.records}
    return Counter(int(labels[path][0]) if len(labels[path]) else -1 for path in chosen.paths)


def test_classes_come_as_evenly_as_the_images_allow(unbalanced: DetectionDataset) -> None:
    assert classes_of(choose_images(unbalanced, 8), unbalanced) == {0: 2, 1: 2, 2: 2, -1: 2}
    assert classes_of(choose_images(unbalanced, 23), unbalanced) == {0: 7, 1: 7, 2: 2, -1: 7}
    assert classes_of(choose_images(unbalanced, 1), unbalanced) == {2: 1}


def test_object_sizes_come_evenly(tmp_path: Path) -> None:
    sides = [20] * 60 + [60] * 6 + [200] * 6  # small, medium and large in 640×480
    paths = [write_image(tmp_path / f"{i:03}.png") for i in range(len(sides))]
    source = dataset([record(path, [0], side) for path, side in zip(paths, sides, strict=True)])
    side_of = dict(zip(paths, sides, strict=True))
    assert Counter(side_of[p] for p in choose_images(source, 12).paths) == {20: 4, 60: 4, 200: 4}


def test_image_sizes_come_evenly(tmp_path: Path) -> None:
    sizes = [(480, 640)] * 40 + [(640, 480)] * 4 + [(1200, 1600)] * 4
    paths = [write_image(tmp_path / f"{i:03}.png") for i in range(len(sizes))]
    records = [record(path, [0], size[0] / 8, size) for path, size in zip(paths, sizes, strict=True)]
    size_of = dict(zip(paths, sizes, strict=True))
    counts = Counter(size_of[p] for p in choose_images(dataset(records), 9).paths)
    assert counts == {(480, 640): 3, (640, 480): 3, (1200, 1600): 3}


def test_the_choice_depends_on_the_seed_alone(unbalanced: DetectionDataset, tmp_path: Path) -> None:
    backwards = dataset(unbalanced.records[::-1])
    assert choose_images(unbalanced, 12, seed=3) == choose_images(backwards, 12, seed=3)
    assert choose_images(unbalanced, 12, seed=3) != choose_images(unbalanced, 12, seed=4)
    paths = [r.path for r in unbalanced.records]
    assert choose_images(paths, 12, seed=3) == choose_images(paths[::-1], 12, seed=3)
    moved = shutil.copytree(tmp_path, tmp_path.parent / f"{tmp_path.name}_moved")
    names = [path.name for path in choose_images(list(moved.iterdir()), 12, seed=3).paths]
    assert names == [path.name for path in choose_images(paths, 12, seed=3).paths]


def test_a_list_gives_one_image_of_each_stretch(tmp_path: Path) -> None:
    paths = [write_image(tmp_path / f"{i:03}.png") for i in range(100)]
    for seed in range(3):
        numbers = sorted(int(path.stem) for path in choose_images(paths, 10, seed=seed).paths)
        assert [number // 10 for number in numbers] == list(range(10))


def test_dirt_in_the_labels_does_no_harm(tmp_path: Path) -> None:
    paths = [write_image(tmp_path / f"{i}.png") for i in range(4)]
    broken = record(paths[0], [0, -1])
    broken.boxes_xyxy[0] = np.nan
    unknown_size = record(paths[1], [1], size_hw=(0, 0))
    empty = record(paths[2], [2], side=0)
    source = dataset([broken, unknown_size, empty, record(paths[3], [0]), record(paths[3], [0])])
    assert sorted(choose_images(source, 4).paths) == paths


def test_unreadable_images_are_named_and_replaced(
    unbalanced: DetectionDataset, caplog: pytest.LogCaptureFixture
) -> None:
    (first, second) = [r.path for r in unbalanced.records if r.labels.tolist() == [2]]
    first.write_bytes(b"no image")
    second.unlink()
    chosen = choose_images(unbalanced, 9)
    assert classes_of(chosen, unbalanced) == {0: 3, 1: 3, -1: 3}
    assert f"cannot decode image {first}" in caplog.text
    assert f"cannot read image {second}" in caplog.text
    paths = [r.path for r in unbalanced.records]
    assert len(choose_images(paths, 98).paths) == 98


def test_too_few_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths = [write_image(tmp_path / f"{i}.png") for i in range(3)]
    assert sorted(choose_images(paths, 512).paths) == paths
    assert "calibrating on all 3 images that there are, 512 were asked for" in caplog.text
    assert "ranges of one image" not in caplog.text
    assert choose_images(paths[:1], 1).paths == (paths[0],)
    assert "ranges of one image will clip" in caplog.text


def test_no_images(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no images to calibrate on; give a dataset"):
        choose_images([])
    with pytest.raises(DatasetError, match="no images to calibrate on; give a dataset"):
        choose_images(dataset([]))
    with pytest.raises(DatasetError, match=r"no images to calibrate on in .*; expected a dataset .* that end in \.bmp"):
        calibration_images(tmp_path)
    with pytest.raises(DatasetError, match=r"no such file or folder"):
        calibration_images(tmp_path / "missing")
    with pytest.raises(DatasetError, match="none of 1 images to calibrate on can be read"):
        choose_images([tmp_path / "missing.png"])
    with pytest.raises(UsageError, match="0 calibration images"):
        choose_images([tmp_path / "missing.png"], 0)


def test_an_unlabelled_folder_and_one_file(tmp_path: Path) -> None:
    paths = [write_image(tmp_path / name) for name in ("a.png", "deeper/b.JPG", "deeper/still/c.webp")]
    (tmp_path / "notes.txt").write_text("no image")
    assert sorted(calibration_images(tmp_path, 10).paths) == paths
    assert calibration_images(paths[0]).paths == (paths[0],)
    with pytest.raises(DatasetError, match="split 'train' does not exist; this folder is no dataset"):
        calibration_images(tmp_path, split="train")


def test_a_dataset_gives_its_training_images(tmp_path: Path) -> None:
    for split in ("train", "val"):
        names = [f"{split}{i}.png" for i in range(3)]
        for name in names:
            write_image(tmp_path / "images" / name)
        coco = {
            "images": [{"id": i, "file_name": name, "width": 8, "height": 6} for i, name in enumerate(names)],
            "annotations": [],
            "categories": [{"id": 1, "name": "thing"}],
        }
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / f"{split}.json").write_text(json.dumps(coco))
    assert {path.stem[:-1] for path in calibration_images(tmp_path, 6).paths} == {"train"}
    assert {path.stem[:-1] for path in calibration_images(tmp_path, 6, split="val").paths} == {"val"}


def test_the_fingerprint_is_of_contents_order_and_size(tmp_path: Path) -> None:
    a, b = write_image(tmp_path / "a.png", grey=1), write_image(tmp_path / "b.png", grey=2)
    copy = shutil.copy(a, tmp_path / "copy.png")
    fingerprint = CalibrationImages((a, b)).fingerprint((300, 300))
    assert fingerprint == CalibrationImages((Path(copy), b)).fingerprint((300, 300))
    others = [
        CalibrationImages((b, a)).fingerprint((300, 300)),
        CalibrationImages((a, b)).fingerprint((300, 320)),
        CalibrationImages((a,)).fingerprint((300, 300)),
    ]
    write_image(a, grey=3)
    others.append(CalibrationImages((a, b)).fingerprint((300, 300)))
    assert len({fingerprint, *others}) == 5
    a.unlink()
    with pytest.raises(DatasetError, match=r"cannot read image .*a\.png"):
        CalibrationImages((a, b)).fingerprint((300, 300))


def test_the_probe_of_the_preprocess_is_the_one_that_tables_hold() -> None:
    """Literal: were it another one, every table made so far would be refused, rightly or not."""
    probe = np.frombuffer(preprocess_probe(), np.uint8)
    assert len(probe) == 8 * 8 * 3 + 2 * 2 * 3
    # RGB of the first pixel, a copy of the image's own, and of the mean of the first four.
    # In units of 16, channel k of the image is 7 k mod 16; its first pixel is 0 7 14 in BGR.
    assert probe[:3].tolist() == [16 * 14, 16 * 7, 0]
    # Half as large: the mean of pixels 0 7 14, 5 12 3, 4 11 2 and 9 0 7.
    assert probe[192:195].tolist() == [104, 120, 72]
