"""Confusion counted by hand."""

from pathlib import Path

import numpy as np

from ssd_edge.detections import Detections
from ssd_edge.evaluation.confusion import confusion
from tests.ssd_edge.evaluation.scene import NAMES, matches_of, scene


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
