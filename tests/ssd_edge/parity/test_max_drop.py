import pytest

from ssd_edge.errors import UsageError
from ssd_edge.parity.max_drop import MaxDrop


@pytest.mark.parametrize(
    ("text", "floor_of_half"),
    [("1%", 0.495), ("0%", 0.5), ("0.5%", 0.4975), ("0.01", 0.49), ("0", 0.5), (" 2 %", 0.49)],
)
def test_a_drop_is_a_share_or_absolute(text: str, floor_of_half: float) -> None:
    assert MaxDrop.parse(text).floor(0.5) == pytest.approx(floor_of_half)


@pytest.mark.parametrize("text", ["", "%", "one", "-1%", "-0.01", "100%", "1", "5", "nan", "nan%", "inf", "1%%"])
def test_a_drop_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not understood"):
        MaxDrop.parse(text)
