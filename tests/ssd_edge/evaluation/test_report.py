"""Confusion and errors counted by hand; the report's files are there, whatever the data are."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from ssd_edge.data.dataset import DetectionDataset, ImageRecord, box_areas
from ssd_edge.detections import Detections
from ssd_edge.errors import SinkError
from ssd_edge.evaluation.confusion import Confusion, confusion
from ssd_edge.evaluation.evaluate import evaluate_detections
from ssd_edge.evaluation.plot_images import FALSE, FOUND, MISSED, Mark, _draw_image, _Tile, plot_worst_images
from ssd_edge.evaluation.plots import CURVE_COLOURS, draw_confusion, draw_curves
from ssd_edge.evaluation.precision_recall import PrecisionRecall
from ssd_edge.evaluation.report import write_report
from ssd_edge.evaluation.voc_matching import Matches, match_boxes
from ssd_edge.evaluation.worst_images import worst_images
from ssd_edge.files import check_folder

NAMES = ("cat", "dog")
LEFT, RIGHT, BELOW = [0, 0, 20, 20], [30, 0, 50, 20], [0, 30, 20, 50]


def scene(folder: Path, names: tuple[str, ...] = NAMES) -> tuple[list[Detections], DetectionDataset]:
    """Three images.

    1: a cat and a dog, the cat found twice, the dog taken for a cat.
    2: a dog missed, a cat where nothing is; and a difficult cat, found.
    3: a cat, found.
    """
    cat, dog = 0, 1
    truth = ([(LEFT, cat, 0), (RIGHT, dog, 0)], [(LEFT, dog, 0), (BELOW, cat, 1)], [(LEFT, cat, 0)])
    found = (
        [(LEFT, 0.9, cat), (LEFT, 0.8, cat), (RIGHT, 0.7, cat)],
        [(RIGHT, 0.95, cat), (BELOW, 0.6, cat)],
        [(LEFT, 0.9, cat), (RIGHT, 0.2, dog)],
    )
    records = []
    for number, things in enumerate(truth, start=1):
        path = folder / f"{number}.png"
        cv2.imwrite(str(path), np.full((60, 80, 3), 90, np.uint8))
        boxes = np.array([box for box, _, _ in things], np.float32)
        labels, crowd = np.array([label for _, label, _ in things]), np.array([hard for _, _, hard in things], bool)
        records.append(ImageRecord(path, number, (60, 80), boxes, labels, box_areas(boxes), crowd))
    detections = [
        Detections(np.array([b for b, _, _ in one]), np.array([s for _, s, _ in one]), np.array([k for _, _, k in one]))
        for one in found
    ]
    return detections, DetectionDataset("scene", names, tuple(range(len(names))), tuple(records))


def matches_of(found: list[Detections], dataset: DetectionDataset) -> Matches:
    return match_boxes(found, dataset, labels=(0, 1), label_of_class=(0, 1))


def test_confusion_counted_by_hand(tmp_path: Path) -> None:
    counted = confusion(matches_of(*scene(tmp_path)), NAMES, score=0.5)
    assert counted.counts.tolist() == [
        [2, 0, 0],  # both cats found
        [1, 0, 1],  # one dog taken for a cat, one missed
        [2, 0, 0],  # a second cat on the first, and one where nothing is
    ]
    np.testing.assert_allclose(counted.shares()[1], [0.5, 0, 0.5])


def test_confusion_depends_on_the_score(tmp_path: Path) -> None:
    matches = matches_of(*scene(tmp_path))
    assert confusion(matches, NAMES, score=0.92).counts.tolist() == [[0, 0, 2], [0, 0, 2], [1, 0, 0]]
    assert confusion(matches, NAMES, score=0.1).counts.tolist() == [[2, 0, 0], [1, 0, 1], [2, 1, 0]]


def test_confusion_takes_the_pair_that_overlaps_most(tmp_path: Path) -> None:
    _, dataset = scene(tmp_path)
    # Two cats over the dog at RIGHT: the nearer one is what it was taken for, the other is over the background.
    near, far = [31, 0, 51, 20], [34, 0, 54, 20]
    found = [Detections(np.array([far, near]), np.array([0.9, 0.8]), np.array([0, 0])), *[Detections.empty()] * 2]
    counted = confusion(matches_of(found, dataset), NAMES, score=0.5)
    assert counted.counts.tolist() == [[0, 0, 2], [1, 0, 1], [1, 0, 0]]


def test_the_diagonal_is_the_recall_of_the_curves(tmp_path: Path) -> None:
    matches = matches_of(*scene(tmp_path))
    for score in (0.1, 0.5, 0.85, 0.92):
        diagonal = np.diag(confusion(matches, NAMES, score=score).shares())
        assert diagonal[0] == matches.curve(0).at(score).recall
        assert diagonal[1] == matches.curve(1).at(score).recall


def test_worst_images_first(tmp_path: Path) -> None:
    worst = worst_images(matches_of(*scene(tmp_path)), score=0.5)
    # Image 1: the dog missed, false detections of 0.8 and 0.7; image 2: a dog missed, one of 0.95; 3: no error.
    assert [(one.image, one.found, one.missed, one.false) for one in worst] == [(0, 1, 1, 2), (1, 0, 1, 1)]
    assert [one.weight for one in worst] == pytest.approx([2.5, 1.95])
    assert len(worst_images(matches_of(*scene(tmp_path)), score=0.5, most=1)) == 1


def test_confusion_is_drawn_as_counted(tmp_path: Path) -> None:
    figure = Figure()
    draw_confusion(figure, confusion(matches_of(*scene(tmp_path)), NAMES, score=0.5))
    axes = figure.axes[0]
    assert axes.images[0].get_array().tolist() == [[1, 0, 0], [0.5, 0, 0.5], [1, 0, 0]]
    assert axes.get_ylim() == (2.5, -0.5)  # row 0 at the top
    assert {text.get_position(): text.get_text() for text in axes.texts} == {
        (0, 0): "2\n100%",  # column, row
        (0, 1): "1\n50%",
        (2, 1): "1\n50%",
        (0, 2): "2\n100%",
    }
    assert [label.get_text() for label in axes.get_xticklabels()] == ["cat", "dog", "missed"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog", "background"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("detected as", "annotated as")


@pytest.mark.parametrize(
    ("classes", "inches", "counts", "named"),
    # 61 rows of 0.2 inches have room for all. Of 1,204 on 60 inches, each is 0.0498 high; a name needs 0.1: three rows.
    [
        (60, 12.2, 61, list(range(61))),
        (1203, 60, 0, list(range(0, 1204, 3))),
        (1202, 60, 0, list(range(2, 1203, 3))),
    ],
)
def test_confusion_of_very_many_classes_has_bounded_size(
    classes: int, inches: float, counts: int, named: list[int]
) -> None:
    names = tuple(f"class {number}" for number in range(classes))
    figure = Figure()
    draw_confusion(figure, Confusion(names, np.eye(classes + 1, dtype=np.int64), score=0.5))
    axes = figure.axes[0]
    assert figure.get_size_inches().tolist() == pytest.approx([inches, inches])
    assert len(axes.texts) == counts
    assert len(axes.get_xticks(minor=True)) == (classes if counts else 0)  # lines between the cells
    assert axes.get_yticks().tolist() == named
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [*(names[row] for row in named[:-1]), "background"]


def test_curves_are_drawn_as_measured() -> None:
    # Two boxes of four found, with an error between them; and a class without errors.
    two = PrecisionRecall.of(np.array([0.9, 0.8, 0.7], np.float32), np.array([True, False, True]), 4)
    one = PrecisionRecall.of(np.array([0.95], np.float32), np.array([True]), 1)
    figure = Figure()
    draw_curves(figure, {"two": two, "one": one}, score=0.75)
    axes = figure.axes[0]
    best, best_dot, other, other_dot, mean, _ = axes.lines
    assert [line.get_color() for line in (best, other, mean)] == [*CURVE_COLOURS[:2], "black"]
    assert np.array(best.get_data()).tolist() == [[0, 1, 1], [1, 1, 0]]
    np.testing.assert_allclose(other.get_data(), [[0, 0.25, 0.5, 0.5], [1, 1, 2 / 3, 0]])
    assert best.get_drawstyle() == other.get_drawstyle() == "steps-pre"
    assert [np.array(dot.get_data()).tolist() for dot in (best_dot, other_dot)] == [[[1], [1]], [[0.25], [0.5]]]
    np.testing.assert_allclose(mean.get_ydata()[[0, 25, 26, 50, 51, 100]], [1, 1, 5 / 6, 5 / 6, 0.5, 0.5])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "1.000  one",
        "0.417  two",
        "0.708  mean of 2 classes",
        "at score > 0.75",
    ]


def test_boxes_are_where_their_image_is_on_the_sheet() -> None:
    tile = _Tile(left=100, top=50, width=200, height=100, scale=2)
    assert tile.box(np.array([10.0, 5, 60, 20])) == (120, 60, 220, 90)
    assert tile.box(np.array([-5.0, -5, 500, 500])) == (100, 50, 300, 150)  # within the image
    axes = Figure().add_axes((0, 0, 1, 1), xlim=(0, 1000), ylim=(1000, 0))
    # A tile is 440 wide and 330 high. Twice as large, an image of 220 × 100 has 65 pixels above and below it.
    assert _draw_image(axes, np.zeros((100, 220, 3), np.uint8), 14, 102) == _Tile(14, 167, 440, 200, 2)
    assert tuple(axes.images[0].get_extent()) == (14, 454, 367, 167)
    # 0.75 times as large, an image of 220 × 440 has 137 pixels on its left.
    assert _draw_image(axes, np.zeros((440, 220, 3), np.uint8), 14, 102) == _Tile(151, 102, 165, 330, 0.75)


def has_colour(image_bgr: np.ndarray, mark: Mark) -> np.ndarray:
    """Bool [height, width]: the pixels of about that mark's colour."""
    colour_bgr = 255 * np.array(to_rgb(mark.colour))[::-1]
    return np.abs(image_bgr - colour_bgr).max(axis=2) < 12


def test_errors_are_drawn_in_their_colours_on_their_images(tmp_path: Path) -> None:
    """Image 1 without an error, image 2 with one box missed, image 3 with one false detection."""
    box = [10, 20, 40, 30]
    records = []
    for number, boxes in enumerate(([box], [box], []), start=1):
        path = tmp_path / f"{number}.png"
        cv2.imwrite(str(path), np.full((60, 80, 3), 90, np.uint8))
        boxes_xyxy = np.array(boxes, np.float32).reshape(-1, 4)
        none = np.zeros(len(boxes))
        records.append(
            ImageRecord(path, number, (60, 80), boxes_xyxy, none.astype(int), box_areas(boxes_xyxy), none.astype(bool))
        )
    dataset = DetectionDataset("errors", NAMES, (0, 1), tuple(records))
    seen = Detections(np.array([box]), np.array([0.9]), np.array([0]))
    matches = matches_of([seen, Detections.empty(), seen], dataset)
    plot_worst_images(tmp_path / "sheet.png", worst_images(matches, score=0.5), matches, dataset, score=0.5)
    sheet = cv2.imread(str(tmp_path / "sheet.png"))[12:, 12:]  # without the margin of 0.12 inches
    # Two tiles of 440 × 330 from (14, 102) and (468, 102): the images 5.5 times as large, box and all.
    tiles = [sheet[102 : 102 + 330, left : left + 440] for left in (14, 468)]
    for tile, mark, other in zip(tiles, (MISSED, FALSE), (FALSE, MISSED), strict=True):
        assert not has_colour(tile, other).any()
        assert not has_colour(tile, FOUND).any()
        drawn = has_colour(tile, mark)
        x0, y0, x1, y1 = 55, 110, 220, 165
        left, top, right, bottom = (slice(edge - 2, edge + 3) for edge in (x0, y0, x1, y1))
        for edge in (drawn[y0:y1, left].T, drawn[y0:y1, right].T, drawn[top, x0:x1], drawn[bottom, x0:x1]):
            assert edge.any(axis=0).mean() > 0.5  # a dashed line too
        assert not drawn[y0 + 4 : y1 - 3, x0 + 4 : x1 - 3].any()
        drawn[y0 - 30 : y1 + 4, x0 - 3 : x1 + 4] = False  # the box, and its label above it
        assert not drawn.any()


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
    found = [Detections(boxes, random.uniform(0, 1, 80), np.where(random.random(80) < 0.7, labels, 0))]
    evaluation = evaluate_detections(found, dataset, names)
    assert max(map(len, evaluation.table().splitlines())) <= 100
    assert all(is_png_with_content(path) for path in write_report(tmp_path, evaluation, dataset)[:3])


def test_a_folder_that_cannot_be_written_is_refused_early(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match="cannot write to"):
        check_folder(tmp_path / "file" / "report")
    check_folder(tmp_path / "new" / "report")
    assert list((tmp_path / "new" / "report").iterdir()) == []
