"""`Detections`: the one type in which detections cross every boundary of the project."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Detections:
    """The detections of one image, best first.

    Attributes:
        boxes_xyxy: float32 [n, 4], x0 y0 x1 y1 in pixels of the original image.
        scores: float32 [n], in 0–1.
        labels: int64 [n], index into `ModelCard.class_names`; the background has no index.

    Raises:
        ValueError: shapes or lengths do not fit together.
    """

    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        boxes = np.asarray(self.boxes_xyxy, dtype=np.float32)
        scores = np.asarray(self.scores, dtype=np.float32)
        labels = np.asarray(self.labels, dtype=np.int64)
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ValueError(f"boxes_xyxy must have shape [n, 4], got {list(boxes.shape)}")
        for name, array in (("scores", scores), ("labels", labels)):
            if array.shape != (len(boxes),):
                raise ValueError(f"{name} must have shape [{len(boxes)}], got {list(array.shape)}")
        object.__setattr__(self, "boxes_xyxy", boxes)
        object.__setattr__(self, "scores", scores)
        object.__setattr__(self, "labels", labels)

    @classmethod
    def empty(cls) -> Detections:
        """No detections."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[tuple[NDArray[np.float32], float, int]]:
        """Yields (box_xyxy float32 [4], score, label) a detection."""
        for box, score, label in zip(self.boxes_xyxy, self.scores, self.labels, strict=True):
            yield box, float(score), int(label)

    def above(self, score: float) -> Detections:
        """Those with a score greater than `score`."""
        keep = self.scores > score
        return Detections(self.boxes_xyxy[keep], self.scores[keep], self.labels[keep])
