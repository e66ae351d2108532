"""The table of int8 accuracy: what it makes of the files, and that the page shows it."""

import pytest

from benchmarks import int8_table

FLOAT = {"precision": "fp32", "AP": 0.5, "drop": 0.0}
CPU = {"precision": "int8", "target": "cpu", "method": "mse", "AP": 0.51234, "drop": -0.01234}
HALF_HEADS = {"precision": "int8", "target": "tensorrt", "method": "mse", "int8_heads": False, "AP": 0.49, "drop": 0.01}
INT8_HEADS = HALF_HEADS | {"int8_heads": True, "AP": 0.48, "drop": 0.02}


def test_a_row_for_each_kind_of_file() -> None:
    reports = {"A": {"rows": [FLOAT, HALF_HEADS, INT8_HEADS, CPU]}, "B": {"rows": [FLOAT, HALF_HEADS]}}
    assert int8_table.table(reports).splitlines() == [
        "| | A | B |",
        "|---|---|---|",
        "| fp32 | 0.5000 | 0.5000 |",
        "| int8 `cpu`, mse | 0.5123 (+1.23) | – |",
        "| int8 `tensorrt`, mse | 0.4900 (-1.00) | 0.4900 (-1.00) |",
        "| int8 `tensorrt`, int8 heads, mse | 0.4800 (-2.00) | – |",
    ]


def test_the_page_shows_the_files() -> None:
    page = int8_table.PAGE.read_text(encoding="utf-8")
    assert page == int8_table.rendered(page), "run: python -m benchmarks.int8_table --write"


def test_a_page_without_markers_is_told() -> None:
    with pytest.raises(ValueError, match="has no lines"):
        int8_table.rendered("# A page")
