"""The model of memory traffic in benchmarks/frame_traffic.py, against sectors counted by hand."""

from pathlib import Path

import pytest

from benchmarks.frame_traffic import main, traffic_bytes


def test_a_row_of_one_warp() -> None:
    """96 bytes are 3 sectors. The row is read twice, as its own neighbour, by loads of first and of second words."""
    assert traffic_bytes((1, 32), (1, 32)) == {"in_place": 2 * 2 * 3 * 32, "copied": 2 * 96 + 96, "copied_kernel": 96}


def test_sectors_between_pixels_are_not_read_in_place() -> None:
    """Two pixels from neighbours 15 and 16, and 47 and 48: bytes 45 to 50 and 141 to 146, in two words each.

    They lie in the sectors that begin at bytes 32 and 128.
    """
    expected = {"in_place": 2 * (2 + 2) * 32, "copied": 2 * 192 + 2 * 32, "copied_kernel": 2 * 32}
    assert traffic_bytes((1, 64), (1, 2)) == expected


def test_the_documentation_has_its_table(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    assert capsys.readouterr().out in (Path(__file__).parents[2] / "docs" / "gpu.md").read_text(encoding="utf-8")
