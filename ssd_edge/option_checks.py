"""Checks of values that come from outside: options in Python or in a TOML file, and cards out of model files."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ssd_edge.errors import UsageError


def is_number(value: object) -> bool:
    """Whether it is an int or a float, infinity and NaN included; `True` and `False` are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_whole(value: object) -> bool:
    """Whether it is an int; `True` and `False` are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_text(value: object) -> bool:
    """Whether it is a string; an empty one is."""
    return isinstance(value, str)


def is_filled_text(value: object) -> bool:
    """Whether it is a string that is not empty."""
    return isinstance(value, str) and bool(value)


def check_table(table: Any, keys: Collection[str], where: str = "") -> Mapping[str, Any]:
    """Return `table` if it is one and has only known keys.

    Args:
        keys: the known ones.
        where: how the message begins, such as `stream.toml: source 1: `.

    Raises:
        UsageError: it is no table, or has another key.
    """
    if not isinstance(table, Mapping):
        raise UsageError(f"{where}expected a table with {', '.join(keys)}, got {table!r}")
    if unknown := [key for key in table if key not in keys]:
        raise UsageError(f"{where}unknown key {unknown[0]!r}; {nearest(unknown[0], keys)}")
    return table


def nearest(word: str, known: Iterable[str]) -> str:
    """For an error: those of the known words that may be meant, or all."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=3)
    if close:
        return f"did you mean {' or '.join(map(repr, close))}?"
    return f"expected one of {', '.join(known[:20])}{', …' if len(known) > 20 else ''}"
