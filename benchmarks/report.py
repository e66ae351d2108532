"""What every benchmark prints and keeps: its figures, behind the machine they were measured on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ssd_edge.machine import describe_machine


def report(figures: dict[str, Any], output: Path | None) -> None:
    """Print the figures as JSON, and write the same to a file where asked for."""
    text = json.dumps({"machine": describe_machine(), **figures}, indent=2, ensure_ascii=False)
    print(text)
    if output:
        output.write_text(text + "\n", encoding="utf-8")
