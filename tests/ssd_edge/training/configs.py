"""Configurations of tiny trainings, and what they read."""

from __future__ import annotations

from ssd_edge.data.dataset import DetectionDataset
from ssd_edge.training.config import TrainConfig
from ssd_edge.training.splits import read_data
from tests.detectors import tiny_arch

TINY_ARCH = str(tiny_arch.__file__)  # a program: the command line with the tiny architectures


def changed(config: TrainConfig, **settings: object) -> TrainConfig:
    """The configuration with other settings, by their names in any of its parts."""
    flat = config.flat()
    assert settings.keys() <= flat.keys(), settings
    return TrainConfig.from_flat(flat | settings)


def read_images(config: TrainConfig) -> tuple[DetectionDataset, DetectionDataset]:
    """The datasets to train and to evaluate on."""
    train_set, val_set = read_data(config.data, config.run.output, config.run.seed)
    assert train_set is not None
    return train_set, val_set
