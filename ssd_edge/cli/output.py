"""Print what a command found, and write it as JSON where `--json` asks for that."""

from __future__ import annotations

from pathlib import Path


def print_report(table: str, json_text: str, json_path: Path | None) -> None:
    """Print a table, and write the same as JSON where asked for."""
    print(table)
    if json_path:
        from ssd_edge.files import atomic_path

        with atomic_path(json_path) as part:
            part.write_text(json_text + "\n", encoding="utf-8")
