"""The accuracy of int8 files as the table of docs/deploy.md, from the files that `int8.py` wrote.

python -m benchmarks.int8_table --write
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
PAGE = FOLDER.parent / "docs" / "deploy.md"
COLUMNS = {
    "SSDlite320, BCCD test": "int8_bccd_ssdlite.json",
    "SSDlite320, codes": "int8_codes_ssdlite.json",
    "SSD300-VGG16, BCCD test": "int8_bccd_ssd300.json",
    "SSD300-VGG16, codes": "int8_codes_ssd300.json",
}
BEGIN, END = "<!-- int8 accuracy -->", "<!-- end of int8 accuracy -->"
NOT_MEASURED = "–"


def table(reports: dict[str, dict[str, Any]]) -> str:
    """AP, and its change in points, of each kind of file (rows) for each report (columns); Markdown.

    Rows are in the order of the first report, those for `cpu` before those for `tensorrt`.
    """
    cells = {column: {_label(row): _cell(row) for row in report["rows"]} for column, report in reports.items()}
    labels = sorted(dict.fromkeys(label for column in cells.values() for label in column), key=_order)
    rows = [[label, *(column.get(label, NOT_MEASURED) for column in cells.values())] for label in labels]
    head = f"| | {' | '.join(cells)} |\n|---{'|---' * len(cells)}|"
    return "\n".join([head, *(f"| {' | '.join(row)} |" for row in rows)])


def _label(row: dict[str, Any]) -> str:
    if row["precision"] != "int8":
        return str(row["precision"])
    heads = ", int8 heads" if row.get("int8_heads") else ""
    return f"int8 `{row['target']}`{heads}, {row['method']}"


def _order(label: str) -> int:
    """The kind of file; rows of one kind keep their order."""
    kinds = ("fp32", "fp16", "int8 `cpu`", "int8 `tensorrt`")
    return next(position for position, kind in enumerate(kinds) if label.startswith(kind))


def _cell(row: dict[str, Any]) -> str:
    change = "" if row["precision"] == "fp32" else f" ({-100 * row['drop']:+.2f})"
    return f"{row['AP']:.4f}{change}"


def rendered(page: str) -> str:
    """A page with the table of the present files between its markers.

    Raises:
        ValueError: it has no markers.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no lines {BEGIN} and {END}; put them where the table is to be")
    reports = {column: json.loads((FOLDER / name).read_text(encoding="utf-8")) for column, name in COLUMNS.items()}
    return f"{before}{BEGIN}\n\n{table(reports)}\n\n{END}{after}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Render the accuracy of int8 files as a Markdown table.")
    parser.add_argument("--write", action="store_true", help="put it into docs/deploy.md")
    args = parser.parse_args()
    page = rendered(PAGE.read_text(encoding="utf-8"))
    if args.write:
        PAGE.write_text(page, encoding="utf-8")
    print(page.partition(BEGIN)[2].partition(END)[0].strip())


if __name__ == "__main__":
    main()
