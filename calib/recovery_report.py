"""The file and the picture of a recovery: accuracy against what it costs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ssd_edge.calib.recovery import Recovery
from ssd_edge.files import atomic_path

INT8, FLOAT, CHOSEN = "#0072B2", "#009E73", "#D55E00"  # Okabe and Ito, as in the evaluation's plots


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
        _plot(output.with_suffix(".recovery.png"), recovery, title=title)


def _plot(path: Path, recovery: Recovery, *, title: str) -> None:
    """Write a PNG: AP over cost, the bound and the choice made.

    Of all choices measured it shows the best one of each number of float layers; the number stands beside it.

    Raises:
        SinkError: the file cannot be written.
    """
    from ssd_edge.evaluation.plots import written_figure  # brings matplotlib

    whole, chosen = recovery.curve[0].cost, recovery.chosen
    with written_figure(path) as figure:
        figure.set_size_inches(7, 4.5)
        axes = figure.add_subplot()
        best = {len(point.kept_float): point for point in sorted(recovery.curve, key=lambda point: point.ap)}
        points = sorted(best.values(), key=lambda point: point.cost)
        axes.plot([p.cost / whole for p in points], [p.ap for p in points], "o-", color=INT8, label="layers in float")
        for point in points:
            place = (point.cost / whole, point.ap)
            axes.annotate(str(len(point.kept_float)), place, xytext=(0, 8), textcoords="offset points", ha="center")
        axes.plot(chosen.cost / whole, chosen.ap, "o", ms=14, fillstyle="none", color=CHOSEN, label="chosen")
        axes.axhline(recovery.reference_ap, color=FLOAT, linestyle="--", label="all in float")
        axes.axhline(recovery.floor, color=CHOSEN, linestyle=":", label="at least asked for")
        axes.margins(x=0.08, y=0.15)
        axes.set(xlabel=f"{recovery.cost_unit}, all layers in int8 = 1", ylabel="AP", title=title)
        axes.legend(loc="lower right")
