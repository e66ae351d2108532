"""Three images and detections in them, with errors that are counted by hand."""

from pathlib import Path

import cv2
import numpy as np

from ssd_edge.data.dataset import DetectionDataset, ImageRecord, box_areas
from ssd_edge.detections import Detections
from ssd_edge.evaluation.voc_matching import Matches, match_boxes

NAMES = ("cat", "dog")

LEFT, RIGHT, BELOW = [0, 0, 20, 20], [30, 0, 50, 20], [0, 30, 20, 50]


def scene(folder: Path, names: tuple[str, ...] = NAMES) -> tuple[list[Detections], DetectionDataset]:
    """Three images.

    1: a cat and a dog, the cat found twice, the dog taken for a cat.
    2: a dog missed, a cat where nothing is; and a difficult cat, found.
    3: a cat, found.
    """
    cat, dog = 0, 1
    truth = ([(LEFT, cat, 0), (RIGHT, dog, 0)], [(LEFT, dog, 0), (BELOW, cat, 1)], [(LEFT, cat, 0)])
    found = (
        [(LEFT, 0.9, cat), (LEFT, 0.8, cat), (RIGHT, 0.7, cat)],
        [(RIGHT, 0.95, cat), (BELOW, 0.6, cat)],
        [(LEFT, 0.9, cat), (RIGHT, 0.2, dog)],
    )
    records = []
    for number, things in enumerate(truth, start=1):
        path = folder / f"{number}.png"
        cv2.imwrite(str(path), np.full((60, 80, 3), 90, np.uint8))
        boxes = np.array([box for box, _, _ in things], np.float32)
        labels, crowd = np.array([label for _, label, _ in things]), np.array([hard for _, _, hard in things], bool)
        records.append(ImageRecord(path, number, (60, 80), boxes, labels, box_areas(boxes), crowd))
    detections = [
        Detections(np.array([b for b, _, _ in one]), np.array([s for _, s, _ in one]), np.array([k for _, _, k in one]))
        for one in found
    ]
    return detections, DetectionDataset("scene", names, tuple(range(len(names))), tuple(records))


def matches_of(found: list[Detections], dataset: DetectionDataset) -> Matches:
    return match_boxes(found, dataset, labels=(0, 1), label_of_class=(0, 1))
