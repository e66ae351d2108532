"""The first line of an error, for messages that quote it."""

import pytest

from ssd_edge.errors import first_line


@pytest.mark.parametrize(
    ("text", "expected"),
    [("one line", "one line"), ("\n  two\nlines", "two"), ("windows\r\nlines", "windows"), ("", ""), (" \n ", "")],
)
def test_the_first_line_of_an_error(text: str, expected: str) -> None:
    assert first_line(ValueError(text)) == expected


def test_an_error_without_arguments_has_none() -> None:
    assert first_line(KeyboardInterrupt()) == ""
