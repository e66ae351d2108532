import pytest

from ssd_edge.picks import spread_evenly


@pytest.mark.parametrize(
    ("count", "picked"),
    [(0, ""), (1, "a"), (2, "ag"), (3, "adg"), (4, "aceg"), (5, "acdeg"), (7, "abcdefg"), (8, "abcdefg")],
)
def test_picks_reach_from_the_first_to_the_last(count: int, picked: str) -> None:
    assert "".join(spread_evenly("abcdefg", count)) == picked


def test_nothing_to_pick_from() -> None:
    assert spread_evenly([], 3) == []
