"""Default boxes that suit a dataset: how well they cover its boxes, and scales and ratios that cover them better.

The published scales are those of COCO and VOC. Where objects are smaller than the smallest default box no default box
reaches the IoU that matching asks for; each object then has the single one that overlaps it most, and hardly learns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ssd_edge.models.default_boxes import DefaultBoxConfig, sizes_wh

MATCH_IOU = 0.5  # from which a default box is an object's; section 2.2 of the SSD paper
SMALLEST_SCALE, LARGEST_SCALE = 0.01, 1.1  # of the image's side, that a fit may choose
SCALE_STEPS = (1.5, 1.25, 1.1, 1.04)  # factors by which a scale is tried up and down, coarse to fine
RATIO_STEPS = (1.3, 1.1, 1.03)
MOST_BOXES = 4000  # that a fit looks at; more change nothing but the time


@dataclass(frozen=True)
class Coverage:
    """How well default boxes cover the boxes of a dataset.

    Attributes:
        recall: share of the boxes that some default box overlaps by `MATCH_IOU` or more, by class name.
        mean_best_iou: IoU with the best default box, mean over the boxes, by class name.
        boxes: how many boxes, by class name.
    """

    recall: dict[str, float]
    mean_best_iou: dict[str, float]
    boxes: dict[str, int]


def coverage(best_iou: Tensor, labels: Tensor, class_names: Sequence[str]) -> Coverage:
    """Summarise what `best_ious` gave, [n], for boxes of these labels, int64 [n]; without classes that have none."""
    of_class = {name: best_iou[labels == label] for label, name in enumerate(class_names)}
    present = {name: values for name, values in of_class.items() if len(values)}
    return Coverage(
        {name: float((values >= MATCH_IOU).float().mean()) for name, values in present.items()},
        {name: float(values.mean()) for name, values in present.items()},
        {name: len(values) for name, values in present.items()},
    )


def best_ious(
    boxes_xyxy: Tensor, config: DefaultBoxConfig, grid_sizes_hw: Sequence[tuple[int, int]], size_hw: tuple[int, int]
) -> Tensor:
    """IoU of each box with the default box that overlaps it most.

    Of the default boxes of one shape, that of the nearest cell overlaps a box most, in x and in y alike. So one cell a
    level is looked at, and thousands of configurations can be compared in the time that tiling the image would take
    for a few.

    Args:
        boxes_xyxy: [n, 4], fractions of the image.
        grid_sizes_hw, size_hw: as `default_boxes_xyxy` takes them.

    Returns:
        float32 [n].
    """
    wh = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]  # [n, 2]
    centre = boxes_xyxy[:, :2] + 0.5 * wh
    best = torch.zeros(len(boxes_xyxy))
    for level, (rows, columns) in enumerate(grid_sizes_hw):
        cells = torch.tensor([columns, rows])
        cells_wide = cells.float()  # cells that the image would hold at this level's step
        if config.steps is not None:
            cells_wide = torch.tensor([size_hw[1], size_hw[0]]) / config.steps[level]
        nearest = torch.minimum((centre * cells_wide).floor().clamp(min=0), cells - 1)
        distance = (centre - (nearest + config.offset) / cells_wide).abs()[:, None]  # [n, 1, 2]
        shapes = sizes_wh(config, level)  # [shapes, 2]
        reach = 0.5 * (wh[:, None] + shapes) - distance  # overlap of two intervals that lie apart or askew …
        overlap_wh = torch.minimum(reach, torch.minimum(wh[:, None], shapes)).clamp(min=0)  # … or one in the other
        overlap = overlap_wh.prod(2)  # [n, shapes]
        union = wh.prod(1)[:, None] + shapes.prod(1) - overlap
        best = torch.maximum(best, (overlap / union).amax(1))
    return best


def fit_default_boxes(
    boxes_xyxy: Tensor,
    labels: Tensor,
    start: DefaultBoxConfig,
    grid_sizes_hw: Sequence[tuple[int, int]],
    size_hw: tuple[int, int],
) -> DefaultBoxConfig:
    """Scales and aspect ratios that cover the boxes better, with as many default boxes a cell as `start` has.

    Improves the mean of the best IoUs, each class counting alike: one scale at a time, then one ratio at a time, in
    ever finer steps (coordinate descent). Deterministic. The result is never worse than `start`.

    Args:
        boxes_xyxy: [n, 4], fractions of the image; as training will show them.
        labels: int64 [n].
        start: the architecture's own.

    Raises:
        ValueError: no box.
    """
    if not len(boxes_xyxy):
        raise ValueError("no box to fit default boxes to")
    if len(boxes_xyxy) > MOST_BOXES:
        chosen = torch.randperm(len(boxes_xyxy), generator=torch.Generator().manual_seed(0))[:MOST_BOXES]
        boxes_xyxy, labels = boxes_xyxy[chosen], labels[chosen]
    weights = 1 / torch.bincount(labels)[labels].float()  # [n]
    weights /= weights.sum()

    def score(config: DefaultBoxConfig) -> float:
        return float((best_ious(boxes_xyxy, config, grid_sizes_hw, size_hw) * weights).sum())

    best = max((start, *_spaced(start)), key=score)
    for step in SCALE_STEPS:
        best = _climb(best, score, lambda config, step=step: _scale_changes(config, step))  # type: ignore[misc]
    for step in RATIO_STEPS:
        best = _climb(best, score, lambda config, step=step: _ratio_changes(config, step))  # type: ignore[misc]
    return _climb(best, score, lambda config: _scale_changes(config, SCALE_STEPS[-1]))


def _climb(
    best: DefaultBoxConfig,
    score: Callable[[DefaultBoxConfig], float],
    changes: Callable[[DefaultBoxConfig], Iterator[DefaultBoxConfig]],
) -> DefaultBoxConfig:
    """Take changes that improve the score until none does."""
    best_score = score(best)
    improved = True
    while improved:
        improved = False
        for change in changes(best):
            if (changed_score := score(change)) > best_score + 1e-5:
                best, best_score, improved = change, changed_score, True
                break
    return best


def _spaced(config: DefaultBoxConfig) -> Iterator[DefaultBoxConfig]:
    """Geometric series of scales: each level covers objects a factor larger than the one before."""
    count = len(config.scales)
    for smallest in (0.02, 0.03, 0.045, 0.07, 0.1, 0.15, 0.2, 0.3):
        for largest in (0.3, 0.45, 0.7, 1.0):
            if largest > smallest:
                ratio = (largest / smallest) ** (1 / (count - 1))
                yield replace(config, scales=tuple(smallest * ratio**k for k in range(count)))


def _scale_changes(config: DefaultBoxConfig, step: float) -> Iterator[DefaultBoxConfig]:
    """One scale, or all, larger or smaller by the factor; scales keep their order."""
    scales = config.scales
    for factor in (step, 1 / step):
        changed = [tuple(s * factor if i == k else s for i, s in enumerate(scales)) for k in range(len(scales))]
        for candidate in (*changed, tuple(s * factor for s in scales)):
            if (
                list(candidate) == sorted(candidate)
                and candidate[0] >= SMALLEST_SCALE
                and candidate[-1] <= LARGEST_SCALE
            ):
                yield replace(config, scales=candidate)


def _ratio_changes(config: DefaultBoxConfig, step: float) -> Iterator[DefaultBoxConfig]:
    """One of the ratios, in all levels that have it, larger or smaller by the factor."""
    for ratio in sorted({ratio for level in config.aspect_ratios for ratio in level}):
        for factor in (step, 1 / step):
            if 1 < ratio * factor < 10:
                yield replace(
                    config,
                    aspect_ratios=tuple(
                        tuple(r * factor if r == ratio else r for r in level) for level in config.aspect_ratios
                    ),
                )
