"""Goldens: what a project's own code makes of `filling.py`, as a small file, and how ours is compared with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssd_edge.card import ModelCard
from ssd_edge.checkpoint import model_from_checkpoint
from ssd_edge.detections import Detections
from ssd_edge.models.predict import Predictor
from ssd_edge.runtime.detector import open_detector
from tests.ssd_edge.importers.filling import fill, gain_of, images

Floats = NDArray[np.float32]
GOLDENS = Path(__file__).with_name("goldens")
CELLS = 4  # of each level that are looked at, with all their default boxes
BEST = 50  # detections of each image that are kept
TOLERANCE = 1e-5  # of the largest magnitude of a tensor
BOX_TOLERANCE = 1e-4  # of the image


class Found(NamedTuple):
    """Detections of one image, best first: corners as fractions of the image, scores, labels from 1 on."""

    boxes: Floats
    scores: Floats
    labels: NDArray[np.int64]


def filled(shapes: Mapping[str, Sequence[int]], gains: Mapping[str, float]) -> dict[str, Tensor]:
    """A state dict of these names and shapes, by `fill`."""
    state = {name: torch.from_numpy(fill(name, shape, gain_of(name, gains))) for name, shape in shapes.items()}
    return {name: value.long() if name.endswith("num_batches_tracked") else value for name, value in state.items()}


def anchors_of(grids: Sequence[int], boxes_per_cell: Sequence[int]) -> NDArray[np.int64]:
    """Numbers of the default boxes to look at: at some cells of each level, from the first to the last, all shapes."""
    numbers, start = [], 0
    for grid, boxes in zip(grids, boxes_per_cell, strict=True):
        cells = np.unique(np.linspace(0, grid**2 - 1, CELLS).astype(np.int64))
        numbers.append(start + (cells[:, None] * boxes + np.arange(boxes)).ravel())
        start += grid**2 * boxes
    return np.concatenate(numbers)


def save_golden(
    path: Path,
    state: Mapping[str, Tensor],
    gains: Mapping[str, float],
    anchors: NDArray[np.int64],
    outputs: tuple[Floats, Floats],
    found: Sequence[Found],
    commit: str,
) -> None:
    """Write one file.

    Args:
        state: of the original network: names and shapes are kept.
        outputs: boxes [images, anchors, 4] as `Found` has them, and scores [images, anchors, classes + 1].
        found: of each image, after the original's own suppression.
        commit: the original's.
    """
    boxes, scores = outputs
    best = [np.argsort(-f.scores, kind="stable")[:BEST] for f in found]
    values: dict[str, Any] = {
        "tensors": json.dumps({name: list(value.shape) for name, value in state.items()}),
        "gains": json.dumps(dict(gains)),
        "commit": commit,
        "anchors": anchors,
        "boxes": boxes[:, anchors],
        "scores": scores[:, anchors, 1:],
        "largest": np.array((np.abs(boxes).max(), scores[..., 1:].max())),
        "counts": np.array([len(f.scores) for f in found]),
    }
    for k, name in enumerate(Found._fields):
        values[f"detected_{name}"] = np.stack([f[k][rows] for f, rows in zip(found, best, strict=True)])
    np.savez_compressed(path, **values)


@dataclass(frozen=True)
class Golden:
    """One file of `save_golden`."""

    values: Mapping[str, Any]

    @classmethod
    def read(cls, name: str) -> Golden:
        with np.load(GOLDENS / f"{name}.npz") as file:
            return cls(dict(file))

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors that the original had, under its names."""
        return filled(json.loads(str(self.values["tensors"])), json.loads(str(self.values["gains"])))

    def assert_equal(self, checkpoint: Path) -> None:
        """An imported checkpoint gives the original's boxes, scores and detections."""
        model, card = model_from_checkpoint(checkpoint)
        pictures = images(card.height, card.width)
        with torch.no_grad():
            boxes, scores = (value.numpy() for value in Predictor(model).eval()(torch.from_numpy(pictures)))
        anchors, (largest_box, largest_score) = self.values["anchors"], self.values["largest"]
        assert np.abs(boxes[:, anchors] - self.values["boxes"]).max() <= TOLERANCE * largest_box
        assert np.abs(scores[:, anchors] - self.values["scores"]).max() <= TOLERANCE * largest_score
        assert (np.abs(boxes).max(), scores.max()) == pytest.approx((largest_box, largest_score), rel=TOLERANCE)
        with open_detector(checkpoint) as detector:
            found = detector(list(pictures[..., ::-1]))  # frames are BGR
        for k, detections in enumerate(found):
            assert len(detections) == min(self.values["counts"][k], card.detections)
            self._assert_same_detections(detections, k, card)

    def _assert_same_detections(self, detections: Detections, image: int, card: ModelCard) -> None:
        """The best ones, each with one of ours; equal scores may swap."""
        wanted = Found(*(self.values[f"detected_{name}"][image] for name in Found._fields))
        assert detections.scores[: len(wanted.scores)] == pytest.approx(wanted.scores, abs=TOLERANCE)
        boxes = detections.boxes_xyxy / np.array((card.width, card.height) * 2, np.float32)
        for box, score, label in zip(wanted.boxes.clip(0, 1), wanted.scores, wanted.labels, strict=True):
            same = (detections.labels == label - 1) & (np.abs(detections.scores - score) <= TOLERANCE)
            assert np.abs(boxes[same] - box).max(axis=1).min(initial=1) <= BOX_TOLERANCE
