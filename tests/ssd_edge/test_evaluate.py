"""COCO metrics against figures worked out by hand."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from ssd_edge.data.dataset import DetectionDataset, ImageRecord
from ssd_edge.detections import Detections
from ssd_edge.errors import DatasetError, UsageError
from ssd_edge.evaluate import METRIC_NAMES, evaluate, evaluate_detections

CLASSES = ("cat", "dog")
CATEGORY_IDS = (17, 3)  # gapped, and not in label order
# Two images, each with one cat and one dog; all four boxes are of COCO's medium size (32² to 96² pixels).
BOXES = ([[10, 10, 60, 60], [70, 70, 120, 120]], [[20, 20, 80, 80], [100, 10, 150, 60]])


def dataset(*, crowd: bool = False, class_names: tuple[str, ...] = CLASSES) -> DetectionDataset:
    records = []
    for image_id, boxes in enumerate(BOXES):
        boxes_xyxy = np.array(boxes, np.float32)
        sides = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
        records.append(
            ImageRecord(
                path=Path(f"{image_id}.png"),
                image_id=image_id,
                size_hw=(200, 200),
                boxes_xyxy=boxes_xyxy,
                labels=np.array([0, 1]),
                areas=sides.prod(axis=1),
                crowd=np.array([False, crowd]),
            )
        )
    return DetectionDataset(name="pets", class_names=class_names, category_ids=CATEGORY_IDS, records=tuple(records))


def found(*, labels: tuple[int, ...] = (0, 1), shift: float = 0.0) -> list[Detections]:
    """The true boxes of `labels`, moved right by `shift` pixels."""
    keep = list(labels)
    return [
        Detections(
            np.array(boxes, np.float32)[keep] + [shift, 0, shift, 0],
            np.full(len(keep), 0.9),
            np.array(keep),
        )
        for boxes in BOXES
    ]


def test_perfect_detections_score_one() -> None:
    result = evaluate_detections(found(), dataset(), CLASSES)
    for name in ("AP", "AP50", "AP75", "APm", "AR10", "AR100", "ARm"):
        assert result.metrics[name] == pytest.approx(1), name
    for name in ("APs", "APl", "ARs", "ARl"):  # no box of these sizes
        assert math.isnan(result.metrics[name]), name
    assert tuple(result.metrics) == METRIC_NAMES
    assert (result.images, result.detections, result.notes) == (2, 4, ())


def test_a_class_never_found_halves_ap() -> None:
    result = evaluate_detections(found(labels=(1,)), dataset(), CLASSES)
    assert result.metrics["AP"] == pytest.approx(0.5)
    assert (result.per_class["cat"].ap, result.per_class["dog"].ap) == pytest.approx((0, 1))


def test_iou_decides_at_which_thresholds_a_box_counts() -> None:
    # Image 0: a 50-pixel box moved by 10 has IoU 40/60 = 0.667: right at 0.50, 0.55, 0.60, 0.65, of ten.
    # Image 1's cat is 60 pixels wide: IoU 50/70 = 0.714, right at 0.70 too; its dog as in image 0.
    result = evaluate_detections(found(shift=10), dataset(), CLASSES)
    assert result.metrics["AP50"] == pytest.approx(1)
    assert result.metrics["AP75"] == pytest.approx(0)
    assert result.per_class["dog"].ap == pytest.approx(0.4)
    # Cat at 0.70: equal scores, image 0 first: a miss, then a hit: precision 1/2 up to recall 1/2,
    # which covers 51 of the 101 recall points.
    assert result.per_class["cat"].ap == pytest.approx((4 + 0.5 * 51 / 101) / 10)


def test_no_detections_score_zero() -> None:
    result = evaluate_detections([Detections.empty()] * 2, dataset(), CLASSES)
    assert result.metrics["AP"] == 0
    assert result.detections == 0


def test_classes_are_matched_by_name() -> None:
    swapped = [Detections(one.boxes_xyxy, one.scores, 1 - one.labels) for one in found()]
    assert evaluate_detections(swapped, dataset(), ("dog", "cat")).metrics["AP"] == pytest.approx(1)
    assert evaluate_detections(swapped, dataset(), CLASSES).metrics["AP"] == 0


def test_a_model_class_the_dataset_lacks_is_left_out_with_a_note() -> None:
    birds = [Detections(one.boxes_xyxy, one.scores, one.labels + 1) for one in found()]
    result = evaluate_detections(birds, dataset(), ("bird", *CLASSES))
    assert result.metrics["AP"] == pytest.approx(1)
    assert list(result.per_class) == ["cat", "dog"]
    assert len(result.notes) == 1
    assert "bird" in result.notes[0]
    assert "bird" in result.table()


def test_a_dataset_class_the_model_lacks_counts_as_never_found() -> None:
    result = evaluate_detections(found(labels=(0,)), dataset(), ("cat",))
    assert result.metrics["AP"] == pytest.approx(0.5)
    assert "dog" in result.notes[0]


def test_a_subset_of_classes_is_scored_alone() -> None:
    result = evaluate_detections(found(labels=(1,)), dataset(), CLASSES, classes=["dog"])
    assert result.metrics["AP50"] == pytest.approx(1)
    assert list(result.per_class) == ["dog"]
    assert result.detections == 2


def test_crowd_boxes_are_neither_asked_for_nor_wrong() -> None:
    result = evaluate_detections(found(labels=(0,)), dataset(crowd=True), CLASSES)
    assert result.metrics["AP"] == pytest.approx(1)
    assert math.isnan(result.per_class["dog"].ap)
    assert evaluate_detections(found(), dataset(crowd=True), CLASSES).metrics["AP"] == pytest.approx(1)


def test_json_holds_every_metric_and_null_for_nan() -> None:
    data = json.loads(evaluate_detections(found(), dataset(), CLASSES).to_json())
    assert list(data["metrics"]) == list(METRIC_NAMES)
    assert data["metrics"]["APs"] is None
    assert data["per_class"]["cat"] == {"AP": pytest.approx(1), "AP50": pytest.approx(1)}


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    evaluate_detections(found(), dataset(), CLASSES)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("data", "names", "classes", "error", "message"),
    [
        (dataset(), ("car", "bus"), None, DatasetError, "no class in common"),
        (dataset(), CLASSES, ["horse"], UsageError, "no class horse; its classes are cat, dog"),
        (dataset(crowd=True), CLASSES, ["dog"], DatasetError, "no boxes of dog"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    data: DetectionDataset, names: tuple[str, ...], classes: list[str] | None, error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        evaluate_detections(found(), data, names, classes=classes)


def test_an_empty_dataset_is_refused() -> None:
    empty = DetectionDataset(name="void", class_names=CLASSES, category_ids=CATEGORY_IDS, records=())
    with pytest.raises(DatasetError, match="void: no images"):
        evaluate_detections([], empty, CLASSES)


def test_one_detections_an_image_is_asked_for() -> None:
    with pytest.raises(ValueError, match="each of 2 images, got 1"):
        evaluate_detections(found()[:1], dataset(), CLASSES)


class OracleDetector:
    """Answers with the true boxes, in order."""

    class card:
        class_names = CLASSES

    def __init__(self) -> None:
        self.rest = found()
        self.calls: list[int] = []

    def __call__(self, frames: list[np.ndarray]) -> list[Detections]:
        self.calls.append(len(frames))
        return [self.rest.pop(0) for _ in frames]


def test_evaluate_feeds_the_images_in_batches(tmp_path: Path) -> None:
    import cv2

    records = []
    for record in dataset().records:
        path = tmp_path / record.path
        cv2.imwrite(str(path), np.zeros((200, 200, 3), np.uint8))
        records.append(
            ImageRecord(
                path=path,
                image_id=record.image_id,
                size_hw=record.size_hw,
                boxes_xyxy=record.boxes_xyxy,
                labels=record.labels,
                areas=record.areas,
                crowd=record.crowd,
            )
        )
    data = DetectionDataset("pets", CLASSES, CATEGORY_IDS, tuple(records))
    detector = OracleDetector()
    assert evaluate(detector, data, batch=1, progress=False).metrics["AP"] == pytest.approx(1)  # type: ignore[arg-type]
    assert detector.calls == [1, 1]
