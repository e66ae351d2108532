"""Confusion and curves are drawn as they were counted and measured."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from ssd_edge.evaluation.confusion import Confusion, confusion
from ssd_edge.evaluation.plots import CURVE_COLOURS, draw_confusion, draw_curves
from ssd_edge.evaluation.precision_recall import PrecisionRecall
from tests.ssd_edge.evaluation.scene import NAMES, matches_of, scene


def test_confusion_is_drawn_as_counted(tmp_path: Path) -> None:
    figure = Figure()
    draw_confusion(figure, confusion(matches_of(*scene(tmp_path)), NAMES, score=0.5))
    axes = figure.axes[0]
    drawn = axes.images[0].get_array()
    assert drawn is not None
    assert drawn.tolist() == [[1, 0, 0], [0.5, 0, 0.5], [1, 0, 0]]
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
    np.testing.assert_allclose(np.array(other.get_data()), [[0, 0.25, 0.5, 0.5], [1, 1, 2 / 3, 0]])
    assert best.get_drawstyle() == other.get_drawstyle() == "steps-pre"
    assert [np.array(dot.get_data()).tolist() for dot in (best_dot, other_dot)] == [[[1], [1]], [[0.25], [0.5]]]
    np.testing.assert_allclose(np.array(mean.get_ydata())[[0, 25, 26, 50, 51, 100]], [1, 1, 5 / 6, 5 / 6, 0.5, 0.5])
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        "1.000  one",
        "0.417  two",
        "0.708  mean of 2 classes",
        "at score > 0.75",
    ]
