"""Checks of options, and the words that an error suggests."""

import math

import pytest

from ssd_edge.errors import UsageError
from ssd_edge.option_checks import check_table, is_filled_text, is_number, is_text, is_whole, nearest


@pytest.mark.parametrize(
    ("value", "number", "whole", "text", "filled"),
    [
        (0, True, True, False, False),
        (-1.5, True, False, False, False),
        (math.inf, True, False, False, False),
        (True, False, False, False, False),
        ("a", False, False, True, True),
        ("", False, False, True, False),
        (None, False, False, False, False),
    ],
)
def test_kinds_of_values(value: object, number: bool, whole: bool, text: bool, filled: bool) -> None:
    assert (is_number(value), is_whole(value)) == (number, whole)
    assert (is_text(value), is_filled_text(value)) == (text, filled)


def test_tables() -> None:
    assert check_table({"a": 1}, ("a", "b")) == {"a": 1}
    with pytest.raises(UsageError, match=r"^source 1: unknown key 'colour'; did you mean 'color'\?$"):
        check_table({"size": 1, "colour": 2}, ("size", "color"), "source 1: ")
    with pytest.raises(UsageError, match=r"^expected a table with size, color, got \[1\]$"):
        check_table([1], ("size", "color"))


def test_words_that_may_be_meant() -> None:
    assert nearest("trafic", ["traffic", "car"]) == "did you mean 'traffic'?"
    assert nearest("x", ["traffic", "car"]) == "expected one of traffic, car"
    assert nearest("x", [str(i) for i in range(100)]).endswith("19, …")
