from pathlib import Path

import pytest

from ssd_edge.evaluation.worst_images import worst_images
from tests.ssd_edge.evaluation.scene import matches_of, scene


def test_worst_images_first(tmp_path: Path) -> None:
    worst = worst_images(matches_of(*scene(tmp_path)), score=0.5)
    # Image 1: the dog missed, false detections of 0.8 and 0.7; image 2: a dog missed, one of 0.95; 3: no error.
    assert [(one.image, one.found, one.missed, one.false) for one in worst] == [(0, 1, 1, 2), (1, 0, 1, 1)]
    assert [one.weight for one in worst] == pytest.approx([2.5, 1.95])
    assert len(worst_images(matches_of(*scene(tmp_path)), score=0.5, most=1)) == 1
