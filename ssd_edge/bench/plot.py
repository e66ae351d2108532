"""The picture of a bench: accuracy against frames a second."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter
from matplotlib.transforms import Bbox

from ssd_edge.bench.figures import Speed
from ssd_edge.bench.report import BenchReport, ModelFigures
from ssd_edge.errors import UsageError
from ssd_edge.evaluation.plots import shortened, written_figure

# Okabe and Ito, as in the plots of an evaluation.
PRECISION_COLOURS = {"fp32": "#0072B2", "fp16": "#009E73", "int8": "#D55E00"}
OTHER_COLOUR = "#CC79A7"
MARKERS = {"ONNX Runtime": "o", "PyTorch": "s", "TensorRT": "^"}
OTHER_MARKER = "D"
LOG_FROM = 4.0  # times from the slowest to the fastest where the axis becomes logarithmic
LEAST_AP_RANGE = 0.02  # of the axis, or noise would look like a difference
DISTANCES = (9.0, 20.0, 34.0, 50.0, 70.0)  # points from the dot to its label, the nearest that is free
DOT_POINTS, BAR_POINTS = 6.0, 1.5  # half the height that a label keeps clear of
DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))


@dataclass(frozen=True)
class _Dot:
    """A model that has both figures."""

    model: ModelFigures
    speed: Speed
    ap: float


def plot_report(path: Path, report: BenchReport) -> None:
    """Write a PNG: AP against end-to-end FPS, colour by precision, marker by what runs the model.

    The bar through a dot spans the quartiles of the rounds.

    Raises:
        UsageError: no model has both figures.
        SinkError: `path` cannot be written.
    """
    dots = [
        _Dot(model, model.speed, model.ap)
        for model in report.models
        if model.speed is not None and model.ap is not None and math.isfinite(model.ap)
    ]
    if not dots:
        raise UsageError("nothing to plot: no model has both FPS and AP; leave out --no-accuracy")
    with written_figure(path) as figure:
        _draw(figure, report, dots)


def _draw(figure: Figure, report: BenchReport, dots: Sequence[_Dot]) -> None:
    figure.set_size_inches(7.2, 4.6)
    axes = figure.add_axes((0, 0, 1, 1))
    for dot in dots:
        rounds = dot.speed.fps_rounds
        colour = _colour(dot.model)
        axes.plot([rounds.q1, rounds.q3], [dot.ap, dot.ap], color=colour, linewidth=1.2, alpha=0.6, zorder=2)
        axes.plot(
            [dot.speed.fps], [dot.ap], _marker(dot.model), color=colour, markersize=9, markeredgecolor="white", zorder=3
        )
    _set_axes(axes, dots)
    batch = f", batch {report.options.batch}" if report.options.batch > 1 else ""
    axes.set(xlabel=f"frames a second, end to end{batch}", ylabel=f"AP on {shortened(report.dataset, 40)}")
    axes.set_title(
        f"Accuracy and speed on {shortened(str(report.machine.get('gpu') or report.machine['processor']), 60)}"
    )
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    _add_legend(axes, dots)
    bars = [(dot.speed.fps_rounds.q1, dot.speed.fps_rounds.q3, dot.ap) for dot in dots]
    place_labels(axes, [(dot.speed.fps, dot.ap, shortened(dot.model.name, 40)) for dot in dots], bars)


def _set_axes(axes: Axes, dots: Sequence[_Dot]) -> None:
    fps = [value for dot in dots for value in (dot.speed.fps, dot.speed.fps_rounds.q1, dot.speed.fps_rounds.q3)]
    aps = [dot.ap for dot in dots]
    if max(fps) / min(fps) >= LOG_FROM:
        axes.set_xscale("log")
        axes.set_xlim(min(fps) / 1.4, max(fps) * 1.4)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        margin = max(0.15 * (max(fps) - min(fps)), 0.05 * max(fps))
        axes.set_xlim(max(0.0, min(fps) - margin), max(fps) + margin)
    middle, half = (max(aps) + min(aps)) / 2, max(max(aps) - min(aps), LEAST_AP_RANGE) / 2
    axes.set_ylim(middle - 1.4 * half, middle + 1.4 * half)


def _add_legend(axes: Axes, dots: Sequence[_Dot]) -> None:
    """One entry a precision and a backend that occur, beside the axes."""
    handles, labels = [], []
    for precision in dict.fromkeys(dot.model.precision for dot in dots):
        handles += axes.plot([], [], "o", color=PRECISION_COLOURS.get(str(precision), OTHER_COLOUR), markersize=8)
        labels.append(str(precision))
    for backend in dict.fromkeys(dot.model.backend for dot in dots):
        handles += axes.plot([], [], _backend_marker(backend), color="0.4", markersize=8)
        labels.append(str(backend))
    handles += axes.plot([], [], "-", color="0.4", linewidth=1.2)
    labels.append("quartiles of the rounds")
    axes.legend(handles, labels, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)


def place_labels(
    axes: Axes, points: Sequence[tuple[float, float, str]], bars: Sequence[tuple[float, float, float]] = ()
) -> list[Text]:
    """Write a label beside each point (x, y, text), clear of other labels, points and bars, and within the axes.

    Where nothing near is free a label stands farther away, with a line to its point; every label is placed.

    Args:
        bars: (x0, x1, y) of horizontal lines.
    """
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    figure.canvas.draw()  # or the axes would not know where they are
    point_pixels = figure.dpi / 72
    taken = _boxes(axes, [(x, x, y) for x, y, _ in points], DOT_POINTS * point_pixels)
    taken += _boxes(axes, bars, BAR_POINTS * point_pixels)
    placed = []
    for x, y, text in points:
        label, box = _best_label(axes, (x, y), text, taken)
        taken.append(box)
        placed.append(label)
    return placed


def _boxes(axes: Axes, bars: Sequence[tuple[float, float, float]], margin: float) -> list[Bbox]:
    """Of horizontal lines (x0, x1, y), in pixels, with a margin around."""
    boxes = []
    for x0, x1, y in bars:
        (left, row), (right, _) = axes.transData.transform([(x0, y), (x1, y)])
        boxes.append(Bbox.from_extents(left - margin, row - margin, right + margin, row + margin))
    return boxes


def _best_label(axes: Axes, point: tuple[float, float], text: str, taken: Sequence[Bbox]) -> tuple[Text, Bbox]:
    """The first of the places around the point that hides nothing, else the one that hides least; and its box."""
    inside = axes.get_window_extent()
    best: tuple[float, Text, Bbox] | None = None
    for distance, direction in product(DISTANCES, DIRECTIONS):
        label = _label(axes, point, text, direction, distance)
        label.get_window_extent()  # puts the text in its place
        box = Text.get_window_extent(label)  # without the line to the point
        hidden = sum(_overlap(box, other) for other in taken) + box.width * box.height - _overlap(box, inside)
        if best is not None and hidden >= best[0]:
            label.remove()
            continue
        if best is not None:
            best[1].remove()
        best = (hidden, label, box)
        if hidden < 1:  # square pixel
            break
    assert best is not None
    return best[1], best[2]


def _label(axes: Axes, point: tuple[float, float], text: str, direction: tuple[int, int], distance: float) -> Text:
    dx, dy = direction
    line = {"arrowstyle": "-", "color": "0.6", "linewidth": 0.7} if distance > DISTANCES[0] else None
    label: Text = axes.annotate(
        text,
        point,
        xytext=(dx * distance, dy * distance),
        textcoords="offset points",
        ha={-1: "right", 0: "center", 1: "left"}[dx],
        va={-1: "top", 0: "center", 1: "bottom"}[dy],
        fontsize=8,
        arrowprops=line,
    )
    return label


def _overlap(first: Bbox, second: Bbox) -> float:
    """Square pixels that two boxes share."""
    width: float = min(first.x1, second.x1) - max(first.x0, second.x0)
    height: float = min(first.y1, second.y1) - max(first.y0, second.y0)
    return max(0.0, width) * max(0.0, height)


def _colour(model: ModelFigures) -> str:
    return PRECISION_COLOURS.get(str(model.precision), OTHER_COLOUR)


def _marker(model: ModelFigures) -> str:
    return _backend_marker(model.backend)


def _backend_marker(backend: str | None) -> str:
    """By the first words of the name, which the device may follow."""
    return next((marker for name, marker in MARKERS.items() if (backend or "").startswith(name)), OTHER_MARKER)
