"""The plot of accuracy against speed."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from ssd_edge.errors import UsageError
from tests.ssd_edge.bench.made_up import FAILED, REPORT


def test_labels_of_the_plot_do_not_overlap(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    from ssd_edge.bench.plot import place_labels

    figure = Figure(dpi=100, figsize=(7, 4.5))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 100), ylim=(0.4, 0.6))
    points = [(10 + number, 0.5, f"a model of the name {number}") for number in range(6)]
    labels = place_labels(axes, [*points, (99, 0.6, "in the very corner")], [(5, 20, 0.5)])
    figure.canvas.draw()
    boxes = [Text.get_window_extent(label) for label in labels]
    assert len(boxes) == 7
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    inside = axes.get_window_extent()
    assert all(inside.contains(*box.min) and inside.contains(*box.max) for box in boxes)


def test_plot_leaves_out_what_failed_and_needs_something(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from ssd_edge.bench.plot import plot_report

    plot_report(tmp_path / "a.png", REPORT)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="nothing to plot"):
        plot_report(tmp_path / "b.png", replace(REPORT, models=(FAILED,)))
    assert not (tmp_path / "b.png").exists()
