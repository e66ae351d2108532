"""Sizes and times as people write them."""

import pytest

from ssd_edge.errors import UsageError
from ssd_edge.runtime.units import byte_size, seconds, size_wh


@pytest.mark.parametrize(
    ("text", "size"),
    [("10GB", 10**10), ("10 GiB", 10 * 2**30), ("500m", 500 * 10**6), ("1.5K", 1500), ("7", 7), ("1e9", 10**9)],
)
def test_byte_sizes(text: str, size: int) -> None:
    assert byte_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "0", "-1", "1.2.3", "10X", "1 0", "0.1", "nan", "inf", "1e999", "2000000T"])
def test_no_byte_sizes(text: str) -> None:
    with pytest.raises(UsageError, match="expected a size such as 10GB"):
        byte_size(text)


@pytest.mark.parametrize("text", ["1280x720", "1280X720", "1280×720"])
def test_frame_sizes(text: str) -> None:
    assert size_wh(text) == (1280, 720)


@pytest.mark.parametrize("text", ["", "1280", "0x720", "1280x", "-1x2", "1 x 2", "123456x1"])
def test_no_frame_sizes(text: str) -> None:
    with pytest.raises(UsageError, match="expected a size such as 1280x720"):
        size_wh(text)


def test_times() -> None:
    assert [seconds(text) for text in ("90", "1.5s", "10m", "1h")] == [90, 1.5, 600, 3600]
    for text in ("0", "1d", "-1", "m"):
        with pytest.raises(UsageError, match="expected a time such as"):
            seconds(text)
