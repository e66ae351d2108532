"""Datasets and videos of scenes read back, and replace nothing of others."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from ssd_edge.data.codes.scenes import CodesScenes
from ssd_edge.data.codes.symbols import CATEGORY_IDS, CLASS_NAMES
from ssd_edge.data.codes.write import write_coco, write_video
from ssd_edge.errors import SinkError, UsageError

SIZE_HW = (240, 320)


def test_class_names_and_ids() -> None:
    assert CLASS_NAMES == ("qr_code", "data_matrix", "aztec", "pdf417", "ean13")
    assert CATEGORY_IDS == (1, 2, 3, 4, 5)


def test_write_coco_reads_back(tmp_path: Path) -> None:
    annotations = write_coco(tmp_path / "codes", count=4, seed=9, size_hw=SIZE_HW, first_index=10)
    coco = json.loads(annotations.read_text(encoding="utf-8"))
    assert annotations == tmp_path / "codes" / "annotations.json"
    assert [(c["id"], c["name"]) for c in coco["categories"]] == list(zip(CATEGORY_IDS, CLASS_NAMES, strict=True))
    assert [i["file_name"] for i in coco["images"]] == [f"codes_{i:06d}.jpg" for i in range(10, 14)]
    source = CodesScenes(9, SIZE_HW)
    for index, image in enumerate(coco["images"], start=10):
        scene = source.scene(index)
        picture = cv2.imread(str(tmp_path / "codes" / "images" / image["file_name"]))
        assert picture is not None
        assert picture.shape == (image["height"], image["width"], 3) == (*SIZE_HW, 3)
        assert np.abs(picture.astype(int) - scene.image_bgr).mean() < 4  # JPEG
        mine = [a for a in coco["annotations"] if a["image_id"] == image["id"]]
        boxes = [(x, y, x + w, y + h) for x, y, w, h in (a["bbox"] for a in mine)]
        assert np.array(boxes).reshape(-1, 4) == pytest.approx(scene.boxes_xyxy, abs=0.02)
        assert [a["category_id"] - 1 for a in mine] == scene.labels.tolist()
    assert sorted(p.name for p in (tmp_path / "codes").iterdir()) == ["annotations.json", "images"]


def test_write_coco_refuses_nothing_and_says_where_it_cannot_write(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least one"):
        write_coco(tmp_path, count=0, seed=0)
    in_the_way = tmp_path / "images" / "codes_000000.jpg"
    in_the_way.mkdir(parents=True)
    with pytest.raises(SinkError, match=r"cannot write .*codes_000000\.jpg"):
        write_coco(tmp_path, count=1, seed=0, size_hw=SIZE_HW)


@pytest.mark.parametrize("text", ['{"info": {"description": "mine"}}', "[]", "[" * 100_000, ""])
def test_files_of_others_are_not_overwritten(tmp_path: Path, text: str) -> None:
    for name, write in (
        ("annotations.json", lambda: write_coco(tmp_path, count=1, seed=0, size_hw=SIZE_HW)),
        ("codes.json", lambda: write_video(tmp_path / "codes.mp4", seconds=0.1, fps=10, seed=0)),
    ):
        file = tmp_path / name
        file.write_text(text)
        with pytest.raises(SinkError, match=f"{name} is not of ssd-edge codes"):
            write()
        assert file.read_text() == text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["annotations.json", "codes.json"]  # nothing rendered


def test_own_files_are_replaced(tmp_path: Path) -> None:
    for count in (1, 2):
        annotations = write_coco(tmp_path, count=count, seed=0, size_hw=SIZE_HW)
        assert len(json.loads(annotations.read_text())["images"]) == count
        assert len(write_video(tmp_path / "codes.mp4", seconds=count / 10, fps=10, seed=0)["images"]) == count


def test_video_has_smooth_truth_for_every_frame(tmp_path: Path) -> None:
    path = tmp_path / "codes.mp4"
    truth = write_video(path, seconds=1.2, fps=20, seed=4, size_hw=SIZE_HW)
    assert truth == json.loads((tmp_path / "codes.json").read_text(encoding="utf-8"))
    assert truth["info"]["video"] == "codes.mp4"
    assert [i["file_name"] for i in truth["images"]] == [f"frame_{i:06d}" for i in range(24)]
    capture = cv2.VideoCapture(str(path))
    frames = 0
    while (read := capture.read())[0]:
        assert read[1].shape == (*SIZE_HW, 3)
        frames += 1
    assert frames == 24
    assert sorted(p.name for p in tmp_path.iterdir()) == ["codes.json", "codes.mp4"]
    for category in CATEGORY_IDS:
        track = np.array([a["bbox"] for a in truth["annotations"] if a["category_id"] == category])
        assert len(track) == 24  # in every frame
        assert np.abs(np.diff(track, axis=0)).max() < 8
        assert np.abs(track[-1] - track[0]).max() > 1  # it does move
        assert (track[:, :2] >= 0).all()
        assert (track[:, :2] + track[:, 2:] <= SIZE_HW[::-1]).all()


def test_video_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.mp4"):
        write_video(tmp_path / "codes.avi", seconds=1, fps=10, seed=0)
    with pytest.raises(UsageError, match="no frame"):
        write_video(tmp_path / "codes.mp4", seconds=0, fps=10, seed=0)
    with pytest.raises(UsageError, match="at least 240×320"):
        write_video(tmp_path / "codes.mp4", seconds=1, fps=10, seed=0, size_hw=(100, 100))
    assert list(tmp_path.iterdir()) == []
