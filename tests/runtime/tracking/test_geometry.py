"""Segments that meet, and others."""

from ssd_edge.runtime.tracking.geometry import meet


def test_segments_meet() -> None:
    assert meet(((0, 0), (2, 2)), ((0, 2), (2, 0)))
    assert meet(((0, 0), (2, 0)), ((1, 0), (1, 5)))  # at an end
    assert not meet(((0, 0), (1, 0)), ((2, 0), (3, 0)))  # on one line, apart
    assert not meet(((0, 0), (2, 2)), ((2, 0), (3, 5)))
