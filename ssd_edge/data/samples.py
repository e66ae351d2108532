"""The samples and batches that the network is trained on.

Sample `index` of epoch `epoch` depends on (seed, epoch, index) alone, whatever the number of workers, and the
order of batches on (seed, epoch). So a run can be resumed at any batch and goes on exactly as it would have.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ssd_edge.data.augment import EvalTransform, Sample, TrainTransform
from ssd_edge.data.codes import CodesScenes
from ssd_edge.data.dataset import DetectionDataset
from ssd_edge.errors import DatasetError
from ssd_edge.images import load_image

Key = tuple[int, int]  # epoch, index
Batch = tuple[Tensor, list[Tensor], list[Tensor]]


class ImageSamples(Dataset[Sample | DatasetError]):
    """A dataset's images through a transform; crowd boxes are left out. An unreadable image gives its error."""

    def __init__(self, dataset: DetectionDataset, transform: TrainTransform | EvalTransform, seed: int):
        self.dataset = dataset
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> Sample | DatasetError:
        epoch, index = key
        record = self.dataset.records[index]
        kept = record.select(~record.crowd)
        try:
            image_bgr = load_image(record.path)
        except DatasetError as error:  # it may have gone since lint; the trainer raises it, in its own process
            return error
        sample_seed = np.random.SeedSequence((self.seed, epoch, index)).generate_state(1, np.uint64)
        return self.transform(image_bgr, kept.boxes_xyxy, kept.labels, int(sample_seed[0]))


class CodesSamples(Dataset[Sample | DatasetError]):
    """Fresh `codes` scenes in every epoch; they come with all the variety that augmentation would add."""

    def __init__(self, scenes_per_epoch: int, size_hw: tuple[int, int], seed: int):
        self.scenes_per_epoch = scenes_per_epoch
        self.scenes = CodesScenes(seed)
        self.transform = EvalTransform(size_hw)

    def __len__(self) -> int:
        return self.scenes_per_epoch

    def __getitem__(self, key: Key) -> Sample:
        epoch, index = key
        scene = self.scenes.scene(epoch * self.scenes_per_epoch + index)
        return self.transform(scene.image_bgr, scene.boxes_xyxy, scene.labels)


class EpochBatches:
    """Batches of (epoch, index) from a given step on to the end of training; a batch sampler for `DataLoader`.

    All epochs come from one iterator, so workers live as long as the training and fetch ahead across epochs.
    The samples of an epoch that do not fill a batch wait for another shuffle. Fewer samples than a batch make a smaller
    one, but of two at least, which is what batch norm needs: a single sample is taken twice.
    """

    def __init__(self, samples: int, batch: int, epochs: int, seed: int, first_step: int = 0):
        self.samples, self.epochs, self.seed, self.first_step = samples, epochs, seed, first_step
        self.batch = min(batch, max(samples, 2))
        self.steps_per_epoch = max(1, samples // self.batch)

    def __len__(self) -> int:
        return self.epochs * self.steps_per_epoch - self.first_step

    def __iter__(self) -> Iterator[list[Key]]:
        first_epoch, skip = divmod(self.first_step, self.steps_per_epoch)
        for epoch in range(first_epoch, self.epochs):
            order = np.random.default_rng((self.seed, epoch)).permutation(self.samples)
            order = np.resize(order, max(self.samples, self.batch))
            for step in range(skip, self.steps_per_epoch):
                yield [(epoch, int(i)) for i in order[step * self.batch : (step + 1) * self.batch]]
            skip = 0


def make_loader(samples: Dataset[Sample | DatasetError], batches: EpochBatches, *, workers: int) -> DataLoader[Any]:
    """A loader that gives each batch as `Batch`.

    That is images uint8 [batch, 3, h, w] RGB, boxes a list of float32 [n, 4] fractions, labels a list of int64 [n].
    """
    return DataLoader(
        samples,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=_start_worker,
        prefetch_factor=4 if workers else None,
    )


def collate(samples: Sequence[Sample | DatasetError]) -> Batch | DatasetError:
    """Samples of one size as a batch; the first error if there is one among them."""
    good: list[Sample] = []
    for sample in samples:
        if isinstance(sample, DatasetError):
            return sample
        good.append(sample)
    images, boxes, labels = zip(*good, strict=True)
    return torch.stack(images), list(boxes), list(labels)


def _start_worker(_: int) -> None:
    # Ctrl-C, and a supervisor's SIGTERM, reach the whole process group; the trainer ends its workers itself, after it
    # has saved.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # The cores belong to the network's threads: one thread for each worker.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
