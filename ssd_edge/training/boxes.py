"""Default boxes for a training: the architecture's own or fitted ones, and how well they cover the dataset."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssd_edge.data.augment import TrainTransform
from ssd_edge.data.dataset import DetectionDataset
from ssd_edge.data.samples import sample_seed
from ssd_edge.models.create import create_model
from ssd_edge.models.default_box_fit import Coverage, best_ious, coverage, fit_default_boxes
from ssd_edge.models.default_boxes import DefaultBoxConfig
from ssd_edge.models.ssd import SSD

LISTED_CLASSES = 10  # that the summary names; of more, those that are covered worst


def boxes_of(dataset: DetectionDataset, transform: TrainTransform | None = None) -> tuple[Tensor, Tensor]:
    """All boxes of a dataset without crowds: float32 [n, 4] as fractions of their image, and int64 [n] labels.

    With a transform, as an epoch of training would show them.
    """
    boxes: list[NDArray[np.float32]] = [np.zeros((0, 4), np.float32)]
    labels: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    for index, record in enumerate(dataset.records):
        kept = record.select(~record.crowd)
        if transform is None:
            boxes.append((kept.boxes_xyxy / np.array(record.size_hw[::-1] * 2)).astype(np.float32))
            labels.append(kept.labels)
        else:
            seen, seen_labels = transform.boxes(record.size_hw, kept.boxes_xyxy, kept.labels, sample_seed(0, 0, index))
            boxes.append(seen)
            labels.append(seen_labels)
    return torch.from_numpy(np.concatenate(boxes)), torch.from_numpy(np.concatenate(labels))


@dataclass(frozen=True)
class BoxComparison:
    """How well an architecture's own default boxes cover a dataset, and others."""

    own: Coverage
    fitted: Coverage | None = None
    config: DefaultBoxConfig | None = None

    def table(self) -> str:
        """Recalls, the classes that the own default boxes cover worst first, and the fitted configuration."""
        fitted = self.fitted
        lines = [f"{'boxes that a default box overlaps by 0.5 or more':<49}   own{'  fitted' if fitted else ''}"]
        names = sorted(self.own.recall, key=lambda name: self.own.recall[name])
        for name in names[:LISTED_CLASSES]:
            row = f"  {name} ({self.own.boxes[name]})"
            lines.append(f"{row:<48} {self.own.recall[name]:>5.0%}{f'  {fitted.recall[name]:>6.0%}' if fitted else ''}")
        if len(names) > LISTED_CLASSES:
            lines.append(f"  … and {len(names) - LISTED_CLASSES} more classes, covered better")
        if self.config:
            scales = ", ".join(f"{scale:.3f}" for scale in self.config.scales)
            ratios = sorted({ratio for level in self.config.aspect_ratios for ratio in level})
            lines.append(f"fitted scales {scales}; aspect ratios {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
        return "\n".join(lines)

    def to_json(self) -> str:
        """The same as JSON text."""
        config = self.config.to_dict() if self.config else None
        return json.dumps(
            {
                "own": asdict(self.own),
                "fitted": asdict(self.fitted) if self.fitted else None,
                "default_boxes": config,
            },
            indent=2,
        )


def compare_boxes(dataset: DetectionDataset, arch: str) -> BoxComparison:
    """The architecture's own default boxes against those that training with the preset `small` would fit.

    Raises:
        UsageError: unknown architecture.
    """
    model = create_model(arch, len(dataset.class_names))
    return fit_to(dataset, TrainTransform(model.config.size_hw, model.config.mean), model)


def fit_to(dataset: DetectionDataset, transform: TrainTransform | None, model: SSD) -> BoxComparison:
    """Fit default boxes to the images as they are and as training shows them, and compare with the model's.

    Args:
        transform: of training; None: it shows the images as they are.
        model: gives the grid sizes and the default boxes to start from.
    """
    views = [boxes_of(dataset)] + ([boxes_of(dataset, transform)] if transform else [])
    boxes, labels = (torch.cat(parts) for parts in zip(*views, strict=True))
    config = fit_default_boxes(boxes, labels, model.config.default_boxes, model.grid_sizes_hw, model.config.size_hw)
    own = coverage_of(dataset, model.config.default_boxes, model)
    return BoxComparison(own, coverage_of(dataset, config, model), config)


def coverage_of(dataset: DetectionDataset, config: DefaultBoxConfig, model: SSD) -> Coverage:
    """How well default boxes on the model's grids cover a dataset's boxes."""
    boxes, labels = boxes_of(dataset)
    return coverage(best_ious(boxes, config, model.grid_sizes_hw, model.config.size_hw), labels, dataset.class_names)
