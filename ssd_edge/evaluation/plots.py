"""The figures of an evaluation: confusion matrix, precision–recall curves, sheet of images.

Drawn by matplotlib's Agg, without pyplot: no display is needed and no state is shared.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ssd_edge.evaluation.confusion import Confusion
from ssd_edge.evaluation.precision_recall import PrecisionRecall
from ssd_edge.files import atomic_path

# Okabe and Ito, "Color Universal Design" (2008): told apart by colour-blind readers too; black is for the mean.
CURVE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D1F")
CURVE_STYLES = ("-", "--", "-.", (0, (5, 1, 1, 1, 1, 1)), "-", "--", "-.")
WORST, BEST = 4, 3  # curves shown by name where there are more classes than colours
MEAN_RECALLS = np.linspace(0, 1, 101)
ROOMY = 15  # classes up to which a cell of the matrix has room for the share below the count
MOST_INCHES = 60.0  # side of the matrix; of more classes than fit it the cells are smaller and have no counts
NAME_INCHES = 0.1  # that the name of a row needs; where rows are lower, every second or third is named
DARK_FROM = 0.55  # share from which a cell is so dark that its text is white
STYLE = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "font.size": 9,
    "text.parse_math": False,  # a $ in a class or file name is a $
}


@contextmanager
def written_figure(path: Path, *, dpi: int = 120) -> Iterator[Figure]:
    """A figure to size and draw on, written to `path` as PNG in the end; what stands out of its size has room too.

    Raises:
        SinkError: as `atomic_path`.
    """
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a box stands for it
        figure = Figure(dpi=dpi)
        FigureCanvasAgg(figure)
        yield figure
        with atomic_path(path) as part:
            figure.savefig(part, format="png", bbox_inches="tight", pad_inches=0.12)


def plot_confusion(path: Path, confusion: Confusion) -> None:
    """Write the confusion matrix: counts in the cells, coloured by their share of the row.

    Raises:
        SinkError: `path` cannot be written.
    """
    with written_figure(path) as figure:
        draw_confusion(figure, confusion)


def draw_confusion(figure: Figure, confusion: Confusion) -> None:
    """Size the figure and draw on it what `plot_confusion` writes."""
    classes, shares = len(confusion.class_names), confusion.shares()
    names = [shortened(name) for name in confusion.class_names]
    roomy = classes <= ROOMY
    cell, text_size, tick_size = (0.8, 9, 9) if roomy else (0.2, 6, 7)  # inches, points, points
    legible = cell * (classes + 1) <= MOST_INCHES
    if not legible:
        cell = MOST_INCHES / (classes + 1)
    side = cell * (classes + 1)
    figure.set_size_inches(side, side)
    axes = figure.add_axes((0, 0, 1, 1))
    picture = axes.imshow(np.nan_to_num(shares), cmap="Blues", vmin=0, vmax=1)
    counted = np.argwhere(confusion.counts) if legible else ()
    for row, column in counted:
        count, share = confusion.counts[row, column], shares[row, column]
        text = f"{count}\n{share:.0%}" if roomy else str(count) if count < 1000 else f"{count / 1000:.0f}k"
        ink = "white" if share > DARK_FROM else "black"
        axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=text_size)
    slant = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if roomy else {"rotation": 90}
    every = math.ceil(NAME_INCHES / cell)
    named = range(classes % every, classes + 1, every)  # ends with the background
    axes.set_xticks(named, [*names, "missed"][named.start :: every], fontsize=tick_size, **slant)
    axes.set_yticks(named, [*names, "background"][named.start :: every], fontsize=tick_size)
    axes.set(xlabel="detected as", ylabel="annotated as")
    axes.set_title(f"Confusion at score > {confusion.score:.2f}, IoU ≥ 0.5")
    if legible:  # lines around smaller cells would hide their colour
        axes.set_xticks(np.arange(classes) + 0.5, minor=True)
        axes.set_yticks(np.arange(classes) + 0.5, minor=True)
        axes.grid(which="minor", color="0.88", linewidth=0.5)
    axes.tick_params(which="both", length=0)
    for draw_line in (axes.axhline, axes.axvline):
        draw_line(classes - 0.5, color="0.35", linewidth=1)
    axes.spines[:].set(visible=True, color="0.35")
    height = min(1.0, 4 / side)
    bar = figure.colorbar(picture, cax=axes.inset_axes((1 + 0.12 / side, 1 - height, 0.16 / side, height)))
    bar.set_label("share of the row")
    bar.outline.set_visible(False)


def plot_curves(path: Path, curves: dict[str, PrecisionRecall], *, score: float) -> None:
    """Write the precision–recall curves at IoU 0.5 of each class, and their mean.

    Where there are more classes than can be told apart, the worst and the best by AP are named and the others
    are grey.

    Args:
        curves: of the classes that have boxes, by name.
        score: marked on each named curve.

    Raises:
        SinkError: `path` cannot be written.
    """
    with written_figure(path) as figure:
        draw_curves(figure, curves, score=score)


def draw_curves(figure: Figure, curves: dict[str, PrecisionRecall], *, score: float) -> None:
    """Size the figure and draw on it what `plot_curves` writes."""
    best_first = sorted(curves, key=lambda name: (curves[name].voc_ap(), curves[name].truths), reverse=True)
    worst_first = sorted(curves, key=lambda name: (curves[name].voc_ap(), -curves[name].truths))
    all_named = len(curves) <= len(CURVE_COLOURS)
    named = best_first if all_named else [*best_first[:BEST], *worst_first[:WORST][::-1]]
    figure.set_size_inches(6.6, 5.0)
    axes = figure.add_axes((0, 0, 1, 1))
    handles, labels = [], []
    for name in curves:
        if name not in named:
            axes.step(*_steps(curves[name]), color="0.82", linewidth=0.7, zorder=1)
    for name, colour, style in zip(named, CURVE_COLOURS, CURVE_STYLES, strict=False):
        curve = curves[name]
        (line,) = axes.step(*_steps(curve), color=colour, linestyle=style, linewidth=1.8, zorder=3)
        point = curve.at(score)
        axes.plot(
            [point.recall],
            [point.precision],
            "o",
            color=colour,
            markersize=6,
            markeredgecolor="white",
            zorder=5,
            clip_on=False,
        )
        handles.append(line)
        labels.append(f"{curve.voc_ap():.3f}  {shortened(name)}")
    if len(curves) > 1:
        mean = np.mean([curve.envelope_at(MEAN_RECALLS) for curve in curves.values()], axis=0)
        ap = float(np.mean([curve.voc_ap() for curve in curves.values()]))
        (line,) = axes.plot(MEAN_RECALLS, mean, color="black", linewidth=2.6, zorder=4)
        handles.append(line)
        labels.append(f"{ap:.3f}  mean of {len(curves)} classes")
    if not all_named:
        (line,) = axes.plot([], [], color="0.75", linewidth=1)
        handles.append(line)
        labels.append(f"the other {len(curves) - len(named)} classes")
    (dot,) = axes.plot([], [], "o", color="0.4", markeredgecolor="white", markersize=6)
    handles.append(dot)
    labels.append(f"at score > {score:.2f}")
    axes.set(xlim=(0, 1.01), ylim=(0, 1.02), xlabel="recall", ylabel="precision (interpolated)")
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_title("Precision and recall at IoU ≥ 0.5")
    title = "AP (area)" if all_named else f"AP (area): {BEST} best, {WORST} worst"
    axes.legend(
        handles,
        labels,
        title=title,
        loc="upper left",
        bbox_to_anchor=(1.01, 1),
        frameon=False,
        alignment="left",
        handlelength=3.2,
        title_fontsize=9,
    )


def _steps(curve: PrecisionRecall) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Recall and interpolated precision to draw as steps, whose area is AP: it ends where recall does."""
    if not curve.correct.any():
        return np.zeros(1), np.zeros(1)
    recall, precision = curve.recall[curve.correct], curve.envelope()[curve.correct]
    return np.concatenate([[0.0], recall, recall[-1:]]), np.concatenate([precision[:1], precision, [0.0]])


def shortened(name: str, most: int = 30) -> str:
    """The name, or its beginning where it is longer than `most` characters."""
    return name if len(name) <= most else f"{name[: most - 1]}…"
