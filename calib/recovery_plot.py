"""The curve of a recovery as a picture: accuracy against what it costs. Needs the `report` extra."""

from __future__ import annotations

from pathlib import Path

from ssd_edge.calib.recovery import Recovery
from ssd_edge.evaluation.plots import written_figure

INT8, FLOAT, CHOSEN = "#0072B2", "#009E73", "#D55E00"  # Okabe and Ito, as in the evaluation's plots


def plot_recovery(path: Path, recovery: Recovery, *, title: str) -> None:
    """Write a PNG: AP over cost, the bound and the choice made.

    Of all choices measured it shows the best one of each number of float layers; the number stands beside it.

    Raises:
        SinkError: the file cannot be written.
    """
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
