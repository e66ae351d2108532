"""A sheet of images on which is drawn what was found, missed and false."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from ssd_edge.data.dataset import DetectionDataset
from ssd_edge.evaluation.plots import shortened, written_figure
from ssd_edge.evaluation.voc_matching import Matches
from ssd_edge.evaluation.worst_images import ImageErrors
from ssd_edge.images import load_image

# In pixels of the sheet.
TILE_WIDTH, TILE_HEIGHT = 440, 330
CAPTION, GAP, HEAD = 26, 14, 76
DPI = 100
FOUND_LABELLED = 5  # correct detections of an image up to which they have labels too


@dataclass(frozen=True)
class Mark:
    """How boxes of one kind are drawn; what they mean shows without colour too.

    The colours are those of Okabe and Ito, "Color Universal Design" (2008), that stand out on photographs.
    """

    meaning: str
    colour: str
    style: str | tuple[float, tuple[float, ...]]
    width: float


FOUND = Mark("found", "#56B4E9", "-", 2.0)
FALSE = Mark("false detection", "#D55E00", "-", 2.4)
TRUTH = Mark("annotated, and found", "#FFFFFF", (0, (4, 2)), 1.0)
MISSED = Mark("annotated, but missed", "#F0E442", (0, (3, 1.5)), 2.4)
IGNORED = Mark("annotated, need not be found", "#BBBBBB", (0, (1, 1)), 1.6)


@dataclass(frozen=True)
class Tile:
    """Where an image is on the sheet: its top left corner, width and height, and sheet pixels an image pixel."""

    left: float
    top: float
    width: float
    height: float
    scale: float

    def box(self, box_xyxy: NDArray[np.float64]) -> tuple[float, float, float, float]:
        """x0 y0 x1 y1 on the sheet, within the image."""
        x0, y0, x1, y1 = (box_xyxy * self.scale).tolist()
        x0, x1 = (self.left + min(max(x, 0.0), self.width) for x in (x0, x1))
        y0, y1 = (self.top + min(max(y, 0.0), self.height) for y in (y0, y1))
        return x0, y0, x1, y1


def plot_worst_images(
    path: Path, worst: Sequence[ImageErrors], matches: Matches, dataset: DetectionDataset, *, score: float
) -> None:
    """Write a sheet of the images in `worst`; without any, a sheet that says so.

    Args:
        score: detections with a score above it are drawn.

    Raises:
        DatasetError: an image that cannot be read.
        SinkError: `path` cannot be written.
    """
    columns = max(2, math.ceil(math.sqrt(len(worst))))
    rows = math.ceil(len(worst) / columns)
    width = GAP + columns * (TILE_WIDTH + GAP)
    height = HEAD + rows * (CAPTION + TILE_HEIGHT + GAP)
    with written_figure(path, dpi=DPI) as figure:
        figure.set_size_inches(width / DPI, height / DPI)
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))  # in pixels, y down as in images
        axes.set_axis_off()
        what = "Images with most errors" if worst else "No image has an error"
        axes.text(GAP, 24, f"{what} at score > {score:.2f}, IoU ≥ 0.5", fontsize=13, va="center")
        marks = [FOUND, FALSE, MISSED, TRUTH, *([IGNORED] if matches.difficult.any() else [])]
        axes.legend(
            [
                Line2D([], [], color=m.colour, linestyle=m.style, linewidth=m.width, path_effects=_halo(m))
                for m in marks
            ],
            [mark.meaning for mark in marks],
            loc="center left",
            bbox_to_anchor=Bbox.from_extents(GAP, 34, width, 72),
            bbox_transform=axes.transData,
            ncols=len(marks),
            frameon=False,
            borderpad=0,
            borderaxespad=0,
            fontsize=10,
        )
        for place, errors in enumerate(worst):
            row, column = divmod(place, columns)
            left, top = GAP + column * (TILE_WIDTH + GAP), HEAD + row * (CAPTION + TILE_HEIGHT + GAP)
            counts = f"{errors.missed} missed, {errors.false} false, {errors.found} found"
            name = shortened(dataset.records[errors.image].path.name, 38)
            axes.text(left, top + CAPTION / 2, name, fontsize=9, fontweight="bold", va="center")
            axes.text(left + TILE_WIDTH, top + CAPTION / 2, counts, fontsize=9, va="center", ha="right")
            tile = draw_image(axes, load_image(dataset.records[errors.image].path), left, top + CAPTION)
            _draw_boxes(axes, tile, errors, matches, dataset.class_names, score)


def draw_image(axes: Axes, image_bgr: NDArray[np.uint8], left: float, top: float) -> Tile:
    """The image as large as its tile, in the middle of it."""
    axes.add_patch(Rectangle((left, top), TILE_WIDTH, TILE_HEIGHT, facecolor="#EEEEEE", edgecolor="none", zorder=-1))
    height, width = image_bgr.shape[:2]
    scale = min(TILE_WIDTH / width, TILE_HEIGHT / height)
    size_wh = max(1, round(width * scale)), max(1, round(height * scale))
    left += (TILE_WIDTH - size_wh[0]) // 2
    top += (TILE_HEIGHT - size_wh[1]) // 2
    small = cv2.resize(image_bgr, size_wh, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    extent = (left, left + size_wh[0], top + size_wh[1], top)
    # imshow would set limits and aspect of the whole sheet anew
    limits = axes.get_xlim(), axes.get_ylim()
    axes.imshow(cv2.cvtColor(small, cv2.COLOR_BGR2RGB), extent=extent, aspect="auto", interpolation="nearest")
    axes.set(xlim=limits[0], ylim=limits[1])
    return Tile(left, top, *size_wh, scale)


def _draw_boxes(
    axes: Axes, tile: Tile, errors: ImageErrors, matches: Matches, class_names: tuple[str, ...], score: float
) -> None:
    truth_here, found_here = matches.truth.images == errors.image, matches.found.images == errors.image
    missed = matches.missed_above(score)
    of_mark = {
        IGNORED: (matches.truth, truth_here & matches.difficult),
        TRUTH: (matches.truth, truth_here & ~matches.difficult & ~missed),
        FOUND: (matches.found, found_here & matches.correct_above(score)),
        FALSE: (matches.found, found_here & matches.false_above(score)),
        MISSED: (matches.truth, truth_here & missed),
    }
    labels: list[tuple[tuple[float, float, float, float], str, Mark]] = []
    for mark, (boxes, here) in of_mark.items():
        for index in np.flatnonzero(here):
            x0, y0, x1, y1 = corners = tile.box(boxes.boxes_xyxy[index])
            axes.add_patch(
                Rectangle(
                    (x0, y0),
                    x1 - x0,
                    y1 - y0,
                    fill=False,
                    edgecolor=mark.colour,
                    linestyle=mark.style,
                    linewidth=mark.width,
                    path_effects=_halo(mark),
                )
            )
            name = shortened(class_names[boxes.labels[index]], 20)
            if mark in (MISSED, FALSE) or (mark is FOUND and errors.found <= FOUND_LABELLED):
                text = name if mark is MISSED else f"{name} {matches.scores[index]:.2f}"
                labels.append((corners, text, mark))
    placed: list[Bbox] = []
    for corners, text, mark in reversed(labels):  # errors first, where there is room for all
        _draw_label(axes, tile, corners, text, mark, placed)


def _draw_label(
    axes: Axes, tile: Tile, corners: tuple[float, float, float, float], text: str, mark: Mark, placed: list[Bbox]
) -> None:
    """A label beside the box where it is within the image and covers no other label, else none."""
    assert isinstance(axes.figure.canvas, FigureCanvasAgg)
    label = axes.text(
        0,
        0,
        text,
        fontsize=7,
        va="top",
        ha="left",
        color="black" if mark is not FALSE else "white",
        bbox={"facecolor": mark.colour, "edgecolor": "none", "pad": 1.5},
        zorder=5,
    )
    extent = label.get_window_extent(axes.figure.canvas.get_renderer())  # pixels of the sheet, as the axes' units
    width, height = extent.width + 4, extent.height + 4
    for left, top in _label_places(corners, width, height):
        spot = Bbox.from_bounds(left, top, width, height)
        inside = tile.left <= left and left + width <= tile.left + tile.width
        inside &= tile.top <= top and top + height <= tile.top + tile.height
        if inside and not any(spot.overlaps(other) for other in placed):
            label.set_position((left + 2, top + 2))
            placed.append(spot)
            return
    label.remove()


def _label_places(
    corners: tuple[float, float, float, float], width: float, height: float
) -> Iterator[tuple[float, float]]:
    """Top left corners to try: above the box, within it, below it; from its left, to its right."""
    x0, y0, x1, y1 = corners
    for top in (y0 - height - 1, y0 + 2, y1 + 1, y1 - height - 2):
        yield x0, top
        yield x1 - width, top


def _halo(mark: Mark) -> list[Stroke | Normal]:
    """A dark edge, so that a line stands out on bright images too."""
    return [Stroke(linewidth=mark.width + 1.4, foreground="#202020"), Normal()]
