"""The first line of an error, for messages that quote it."""

import pytest

from ssd_edge.errors import first_line, reason


@pytest.mark.parametrize(
    ("text", "expected"),
    [("one line", "one line"), ("\n  two\nlines", "two"), ("windows\r\nlines", "windows"), ("", ""), (" \n ", "")],
)
def test_the_first_line_of_an_error(text: str, expected: str) -> None:
    assert first_line(ValueError(text)) == expected


def test_an_error_without_arguments_has_none() -> None:
    assert first_line(KeyboardInterrupt()) == ""


def test_the_reason_is_the_class_where_an_error_has_no_text() -> None:
    assert reason(ValueError("\n  two\nlines")) == "two"
    assert reason(KeyboardInterrupt()) == "KeyboardInterrupt"
