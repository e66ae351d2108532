"""What is a zone, what is a line, and what is neither."""

import pytest

from ssd_edge.errors import UsageError
from ssd_edge.runtime.tracking.watch import PlaceWatch
from ssd_edge.runtime.tracking.zones import Line, Zone

SQUARE = ((400.0, 400.0), (600.0, 400.0), (600.0, 600.0), (400.0, 600.0))
DOOR = ((400.0, 500.0), (600.0, 500.0))  # going right: `in` is below


@pytest.mark.parametrize(
    ("polygon", "message"),
    [
        ([[0, 0], [1, 1]], "'yard': a polygon has 3 points or more, got 2"),
        ([[0, 0], [1, 1], [1, 0], [0, 1]], r"edges \[0, 0\]–\[1, 1\] and \[1, 0\]–\[0, 1\] cross"),
        ([[0, 0], [0.5, 0.5], [1, 1]], "on one line"),
        ([[0.1, 0.1], [0.9, 0.1], [1.2, 0.9]], "0.1 looks like a fraction of the picture and 1.2 like pixels"),
        ([[-1, 0], [9, 0], [9, 9]], "from 0 up, got -1"),
        ([[float("nan"), 0], [9, 0], [9, 9]], "from 0 up, got nan"),
        ([[1, 2, 3]], "expected points such as"),
        (3, "expected points such as"),
        ([], "3 points or more, got 0"),
    ],
)
def test_what_is_no_zone(polygon: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Zone("yard", polygon)  # type: ignore[arg-type]


def test_a_polygon_may_have_edges_on_one_line() -> None:
    assert Zone("U", [[0, 0], [3, 0], [3, 2], [2, 2], [2, 1], [1, 1], [1, 2], [0, 2]])  # type: ignore[arg-type]


def test_other_errors() -> None:
    with pytest.raises(UsageError, match=r"line 'door': a line has 2 different points, got \[5, 5\]–\[5, 5\]"):
        Line("door", ((5, 5), (5, 5)))
    with pytest.raises(UsageError, match="unknown anchor 'center'; did you mean 'centre'"):
        Zone("z", SQUARE, "center")
    with pytest.raises(UsageError, match="expected a name"):
        Zone("", SQUARE)
    with pytest.raises(UsageError, match="called 'z'"):
        PlaceWatch([Zone("z", SQUARE)], [Line("z", DOOR)])
