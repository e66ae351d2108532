"""The file and the picture of a recovery: accuracy against what it costs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ssd_edge.calib.recovery import Recovery
from ssd_edge.files import atomic_path


def remove_recovery(output: Path) -> None:
    """Remove the curve of an earlier model of this name, which says nothing of the one that took its place."""
    for suffix in (".recovery.json", ".recovery.png"):
        output.with_suffix(suffix).unlink(missing_ok=True)


def write_recovery(output: Path, recovery: Recovery, *, title: str) -> None:
    """Write the curve of accuracy against speed beside the model: JSON, and a PNG where matplotlib is installed.

    Raises:
        SinkError: they cannot be written.
    """
    with atomic_path(output.with_suffix(".recovery.json")) as part:
        part.write_text(recovery.to_json() + "\n", encoding="utf-8")
    if importlib.util.find_spec("matplotlib"):
        from ssd_edge.calib.recovery_plot import plot_recovery

        plot_recovery(output.with_suffix(".recovery.png"), recovery, title=title)
