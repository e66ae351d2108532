"""Sizes as arguments: the rules of `units`, with the complaints of argparse."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import pytest

from ssd_edge.cli.arguments import memory_size, size_hw


def test_sizes() -> None:
    assert [memory_size(text) for text in ("2G", "2GiB", "512m", "7", " 2GB")] == [
        2 << 30,
        2 << 30,
        512 << 20,
        7,
        2 << 30,
    ]
    assert size_hw("640x480") == size_hw("640X480") == (480, 640)


@pytest.mark.parametrize(
    ("argument", "text", "problem"),
    [
        (memory_size, "2GG", "'2GG' is not a size such as 2G or 512M"),
        (memory_size, "1e30", "'1e30' is not a size such as 2G or 512M"),
        (size_hw, "640", "'640' is not a size such as 640x480"),
        (size_hw, "0x480", "'0x480' is not a size such as 640x480"),
    ],
)
def test_no_sizes(argument: Callable[[str], Any], text: str, problem: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"^{problem}$"):
        argument(text)
