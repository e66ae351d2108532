"""The evidence script and what it writes, for its tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "benchmarks" / "gpu_evidence.sh"


def written(tmp_path: Path) -> Any:
    return json.loads((tmp_path / "gpu_evidence.json").read_text())


def script(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable}
    return subprocess.run(["bash", SCRIPT, *arguments], capture_output=True, text=True, env=environment, **options)


def is_running(*words: str) -> bool:
    """Whether some process has these arguments; zombies have none."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes().split(b"\0")
        except OSError:  # it has ended
            continue
        if all(word.encode() in arguments for word in words):
            return True
    return False


def void(_: object) -> None:
    """Drop a value."""
