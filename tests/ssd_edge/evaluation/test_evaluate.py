"""COCO metrics against figures worked out by hand."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from ssd_edge.bundled import bundled_model
from ssd_edge.data.codes.write import write_coco
from ssd_edge.data.dataset import DetectionDataset, ImageRecord
from ssd_edge.data.readers import read_dataset
from ssd_edge.detections import Detections
from ssd_edge.errors import DatasetError, UsageError
from ssd_edge.evaluation.evaluate import METRIC_NAMES, detect, evaluate, evaluate_detections
from ssd_edge.runtime.detector import open_detector
from tests.fakes.oracle_detector import OracleDetector

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
            np.array(boxes, np.float32)[keep] + np.array([shift, 0, shift, 0], np.float32),
            np.full(len(keep), 0.9, np.float32),
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
    assert data["per_class"]["cat"] == {
        **dict.fromkeys(("AP", "AP50", "AP75", "VOC07_AP50", "VOC_AP50"), pytest.approx(1)),
        "boxes": 2,
        "detections": 2,
        "best_f1": {"score": 0.45, "precision": 1, "recall": 1, "f1": 1},
    }
    blind = json.loads(evaluate_detections([Detections.empty()] * 2, dataset(), CLASSES).to_json())
    assert set(blind["per_class"]["cat"]["best_f1"].values()) == {None}


def test_the_table_has_every_class_and_the_threshold_of_its_best_f1() -> None:
    names = ("cat", "a dog with a very long name")
    table = evaluate_detections(found(labels=(0,), shift=10), dataset(class_names=names), names).table().splitlines()
    figures = ["AP", "AP50", "AP75", "VOC07", "VOC", "boxes", "found", "score", "prec.", "recall"]
    assert table[0].split() == ["class", *figures]
    assert table[1].split()[2:] == ["1.000", "0.000", "1.000", "1.000", "2", "2", "0.45", "1.000", "1.000"]
    assert table[2].startswith("a dog with a very…   0.000")
    assert table[2].split()[-5:] == ["2", "0", "–", "–", "–"]
    assert table[4].split()[2:] == ["0.500", "0.000", "0.500", "0.500", "4", "2", "0.45", "1.000", "0.500"]
    assert max(map(len, table)) <= 100


def test_mean_voc_ap_is_over_classes_with_boxes() -> None:
    result = evaluate_detections(found(labels=(0,)), dataset(crowd=True), CLASSES)
    assert math.isnan(result.per_class["dog"].voc07_ap50)
    assert (result.metrics["VOC07_AP50"], result.metrics["VOC_AP50"]) == (1, 1)
    assert result.per_class["dog"].boxes == 0


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
    data: DetectionDataset, names: tuple[str, ...], classes: list[str] | None, error: type[Exception], message: str
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


def written_dataset(folder: Path, shades: Sequence[int] = (0, 0)) -> DetectionDataset:
    """The dataset with its images as files, one shade of grey each."""
    records: list[ImageRecord] = []
    for shade, record in zip(shades, cycle(dataset().records)):
        path = folder / f"{len(records)}.png"
        cv2.imwrite(str(path), np.full((200, 200, 3), shade, np.uint8))
        records.append(replace(record, path=path, image_id=len(records)))
    return DetectionDataset("pets", CLASSES, CATEGORY_IDS, tuple(records))


def test_evaluate_feeds_the_images_in_batches(tmp_path: Path) -> None:
    detector = OracleDetector(CLASSES, found())
    result = evaluate(detector, written_dataset(tmp_path), batch=1, progress=False)  # type: ignore[arg-type]
    assert result.metrics["AP"] == pytest.approx(1)
    assert detector.calls == [1, 1]


@pytest.mark.parametrize(("batch", "calls"), [(1, [1] * 7), (3, [3, 3, 1]), (7, [7]), (100, [7])])
def test_images_come_in_order_and_batches_of_any_size(batch: int, calls: list[int], tmp_path: Path) -> None:
    sizes, shades = list[int](), list[int]()

    def detector(frames: list[NDArray[np.uint8]]) -> list[Detections]:
        sizes.append(len(frames))
        shades.extend(int(frame[0, 0, 0]) for frame in frames)
        return [Detections.empty() for _ in frames]

    data = written_dataset(tmp_path, shades=range(0, 70, 10))
    assert len(detect(detector, data, batch=batch, progress=False)) == 7  # type: ignore[arg-type]
    assert sizes == calls
    assert shades == list(range(0, 70, 10))


def test_a_batch_of_no_images_is_refused(tmp_path: Path) -> None:
    for measure in (detect, evaluate):
        with pytest.raises(UsageError, match="batch of 0 images; expected at least 1"):
            measure(OracleDetector(CLASSES, found()), written_dataset(tmp_path), batch=0, progress=False)  # type: ignore[arg-type]


def test_at_most_one_batch_is_loaded_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, loaded = written_dataset(tmp_path, shades=range(20)), list[Path]()

    def load(path: Path) -> NDArray[np.uint8]:
        loaded.append(path)
        return np.zeros((4, 4, 3), np.uint8)

    monkeypatch.setattr("ssd_edge.evaluation.evaluate.load_image", load)
    ahead, given = list[int](), list[NDArray[np.uint8]]()

    def detector(frames: list[NDArray[np.uint8]]) -> list[Detections]:
        given.extend(frames)
        ahead.append(len(loaded) - len(given))
        return [Detections.empty() for _ in frames]

    detect(detector, data, batch=3, progress=False)  # type: ignore[arg-type]
    assert len(given) == 20
    assert max(ahead) <= 3


def test_an_unreadable_image_ends_the_evaluation(tmp_path: Path) -> None:
    data = written_dataset(tmp_path, shades=range(6))
    data.records[3].path.write_text("no image")
    with pytest.raises(DatasetError, match=r"cannot decode image .*3\.png"):
        detect(lambda frames: [Detections.empty() for _ in frames], data, batch=2, progress=False)  # type: ignore[arg-type]


def test_the_batch_does_not_change_what_is_found(tmp_path: Path) -> None:
    write_coco(tmp_path, count=5, seed=0, size_hw=(240, 320))
    data = read_dataset(tmp_path)
    with open_detector(bundled_model(), threads=1) as detector:
        one_by_one, by_three = (detect(detector, data, batch=batch, progress=False) for batch in (1, 3))
        class_names = detector.card.class_names
    assert sum(map(len, one_by_one)) > 5
    for one, other in zip(one_by_one, by_three, strict=True):
        assert one.labels.tolist() == other.labels.tolist()
        np.testing.assert_allclose(one.boxes_xyxy, other.boxes_xyxy, atol=1e-2)  # pixels
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
    ours, theirs = (evaluate_detections(found, data, class_names).metrics for found in (one_by_one, by_three))
    assert ours == pytest.approx(theirs, nan_ok=True)
