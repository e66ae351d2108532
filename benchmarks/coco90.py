"""Train the 90-class SSDlite320 that `speed.py` runs, on COCO128.

Suppression costs what the scores make it cost: with random weights every class of every anchor passes torchvision's
threshold, with few classes none does. So speed is measured with a model of COCO's 90 category ids that has learnt that
most of an image is background. It is no detector to use: 128 images teach nothing that generalises.

    python -m benchmarks.coco90 ../shared/data/coco128/annotations/instances_train2017.json -o runs/coco90
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from ssd_edge.data.dataset import DetectionDataset
from ssd_edge.data.lint import lint
from ssd_edge.data.readers import read_dataset
from ssd_edge.models.create import COCO_CLASSES
from ssd_edge.training.config import RunSettings, TrainConfig
from ssd_edge.training.optimisation import Optimisation
from ssd_edge.training.run import train_on
from ssd_edge.training.splits import DataSettings


def with_all_category_ids(dataset: DetectionDataset) -> DetectionDataset:
    """The dataset with classes for the category ids 1–90, the ten that name nothing included."""
    names = dict(zip(dataset.category_ids, dataset.class_names, strict=True))
    ids = tuple(range(1, COCO_CLASSES + 1))
    to_label = np.array([category_id - 1 for category_id in dataset.category_ids])
    return DetectionDataset(
        dataset.name,
        tuple(names.get(i, f"unused {i}") for i in ids),
        ids,
        tuple(replace(record, labels=to_label[record.labels]) for record in dataset.records),
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="train the 90-class model that speed.py runs")
    parser.add_argument("data", type=Path, help="COCO128's instances_train2017.json")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=30)
    args = parser.parse_args()
    dataset = with_all_category_ids(lint(read_dataset(args.data))[0])
    optimisation = Optimisation(epochs=args.epochs)
    config = TrainConfig(DataSettings(str(args.data)), RunSettings(args.output), optimisation=optimisation)
    print(train_on(dataset, dataset, config))


if __name__ == "__main__":
    main()
