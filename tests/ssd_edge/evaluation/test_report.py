"""The report of an evaluation: its files are there, whatever the data are."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from ssd_edge.data.dataset import DetectionDataset, ImageRecord, box_areas
from ssd_edge.detections import Detections
from ssd_edge.errors import SinkError
from ssd_edge.evaluation.evaluate import evaluate_detections
from ssd_edge.evaluation.report import write_report
from ssd_edge.files import check_folder
from tests.ssd_edge.evaluation.scene import NAMES, scene


def is_png_with_content(path: Path) -> bool:
    image = cv2.imread(str(path))
    return image is not None and min(image.shape[:2]) > 150 and image.std() > 1


@pytest.mark.parametrize("names", [NAMES, ("$x_1^", "_猫")])  # what matplotlib could take for mathematics, or hide
def test_report_has_its_files(names: tuple[str, ...], tmp_path: Path) -> None:
    found, dataset = scene(tmp_path, names)
    paths = write_report(tmp_path / "report", evaluate_detections(found, dataset, names), dataset)
    assert [path.name for path in paths] == ["confusion.png", "precision_recall.png", "worst_images.png", "report.json"]
    assert all(is_png_with_content(path) for path in paths[:3])
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == sorted(path.name for path in paths)
    report = json.loads(paths[3].read_text())
    # Cats alone: 2 of 4 boxes. Two detections of 0.9 and one of 0.95 above 0.85: F1 2·2/(3 + 4).
    assert report["best_f1"] == {
        "score": 0.85,
        "precision": pytest.approx(2 / 3),
        "recall": 0.5,
        "f1": pytest.approx(4 / 7),
    }
    assert report["at_score"]["score"] == 0.85
    assert report["at_score"]["confusion"]["names"] == [*names, "background"]
    assert report["at_score"]["confusion"]["counts"] == [[2, 0, 0], [0, 0, 2], [1, 0, 0]]
    assert report["at_score"]["worst_images"][0] == {
        "file": str(tmp_path / "2.png"),
        "missed": 1,
        "false": 1,
        "found": 0,
    }


@pytest.mark.parametrize("perfect", [True, False])
def test_report_without_errors_and_without_detections(perfect: bool, tmp_path: Path) -> None:
    _, dataset = scene(tmp_path)
    found = [
        Detections(r.boxes_xyxy, np.full(len(r.labels), 0.9), r.labels) if perfect else Detections.empty()
        for r in dataset.records
    ]
    paths = write_report(tmp_path / "report", evaluate_detections(found, dataset, NAMES), dataset)
    report = json.loads(paths[3].read_text())["at_score"]
    assert report["recall"] == perfect
    assert report["precision"] == (1 if perfect else None)
    assert len(report["worst_images"]) == (0 if perfect else 3)
    assert all(path.stat().st_size > 1000 for path in paths[:3])


def test_report_of_many_classes(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    names = tuple(f"class {number}" for number in range(40))
    path = tmp_path / "1.png"
    cv2.imwrite(str(path), random.integers(0, 255, (200, 200, 3), np.uint8))
    corners = random.uniform(0, 150, (80, 2))
    boxes = np.concatenate([corners, corners + 30], axis=1).astype(np.float32)
    labels = np.arange(80) % 40
    record = ImageRecord(path, 1, (200, 200), boxes, labels, box_areas(boxes), np.zeros(80, bool))
    dataset = DetectionDataset("many", names, tuple(range(40)), (record,))
    found = [
        Detections(boxes, random.uniform(0, 1, 80).astype(np.float32), np.where(random.random(80) < 0.7, labels, 0))
    ]
    evaluation = evaluate_detections(found, dataset, names)
    assert max(map(len, evaluation.table().splitlines())) <= 100
    assert all(is_png_with_content(path) for path in write_report(tmp_path, evaluation, dataset)[:3])


def test_a_folder_that_cannot_be_written_is_refused_early(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match="cannot write to"):
        check_folder(tmp_path / "file" / "report")
    check_folder(tmp_path / "new" / "report")
    assert list((tmp_path / "new" / "report").iterdir()) == []
