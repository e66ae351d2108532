"""The samples and batches that the network is trained on.

Sample `index` of epoch `epoch` depends on (seed, epoch, index) alone, whatever the number of workers, and the
order of batches on (seed, epoch). So a run can be resumed at any batch and goes on exactly as it would have.
"""

from __future__ import annotations

import signal
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ssd_edge.data.augment import EvalTransform, Sample, TrainTransform
from ssd_edge.data.codes.scenes import CodesScenes
from ssd_edge.data.dataset import DetectionDataset
from ssd_edge.errors import DatasetError
from ssd_edge.images import load_image

CPU = torch.device("cpu")
Key = tuple[int, int]  # epoch, index
Batch = tuple[Tensor, list[Tensor], list[Tensor]]


class Samples(Dataset[Sample | DatasetError]):
    """What the network is trained on, by (epoch, index)."""

    @abstractmethod
    def __len__(self) -> int:
        """Samples an epoch."""

    def __getitem__(self, key: Key) -> Sample | DatasetError:
        """A sample, or why there is none: an error raised in a worker would reach the trainer as a traceback's text."""
        try:
            return self.sample(key)
        except DatasetError as error:  # an image may have gone since lint
            return error
        except MemoryError:
            raise
        except Exception as error:
            return DatasetError(f"preparing {self.name(key)} failed ({type(error).__name__}: {error})")

    @abstractmethod
    def sample(self, key: Key) -> Sample:
        """Make the sample."""

    @abstractmethod
    def name(self, key: Key) -> str:
        """What the sample is called in messages."""


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """Seed of all that is random about one sample."""
    return int(np.random.SeedSequence((seed, epoch, index)).generate_state(1, np.uint64)[0])


class ImageSamples(Samples):
    """A dataset's images through a transform; crowd boxes are left out. An unreadable image gives its error."""

    def __init__(self, dataset: DetectionDataset, transform: TrainTransform | EvalTransform, seed: int):
        self.dataset = dataset
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def sample(self, key: Key) -> Sample:
        """The image and its boxes, transformed."""
        epoch, index = key
        record = self.dataset.records[index]
        kept = record.select(~record.crowd)
        seed = sample_seed(self.seed, epoch, index)
        return self.transform(load_image(record.path), kept.boxes_xyxy, kept.labels, seed)

    def name(self, key: Key) -> str:
        """What the sample is called in messages."""
        return self.dataset.records[key[1]].path.name


class CodesSamples(Samples):
    """Fresh `codes` scenes in every epoch; they come with all the variety that augmentation would add."""

    def __init__(self, scenes_per_epoch: int, size_hw: tuple[int, int], seed: int):
        self.scenes_per_epoch = scenes_per_epoch
        self.scenes = CodesScenes(seed)
        self.transform = EvalTransform(size_hw)

    def __len__(self) -> int:
        return self.scenes_per_epoch

    def sample(self, key: Key) -> Sample:
        """The scene at the model's size."""
        scene = self.scenes.scene(self._number(key))
        return self.transform(scene.image_bgr, scene.boxes_xyxy, scene.labels)

    def name(self, key: Key) -> str:
        """What the sample is called in messages."""
        return f"scene {self._number(key)}"

    def _number(self, key: Key) -> int:
        epoch, index = key
        return epoch * self.scenes_per_epoch + index


class EpochBatches:
    """Batches of (epoch, index) from a given step on to the end of training; a batch sampler for `DataLoader`.

    All epochs come from one iterator, so workers live as long as the training and fetch ahead across epochs.
    The samples of an epoch that do not fill a batch wait for another shuffle. Fewer samples than a batch make a smaller
    one, but of two at least, which is what batch norm needs: a single sample is taken twice.

    Args:
        rank, world: of `world` processes that train together, each takes every `world`-th sample of every batch.
    """

    def __init__(
        self, samples: int, batch: int, epochs: int, seed: int, *, first_step: int = 0, rank: int = 0, world: int = 1
    ):
        self.samples, self.epochs, self.seed, self.first_step = samples, epochs, seed, first_step
        self.rank, self.world = rank, world
        self.batch = min(batch, max(samples, 2))
        self.steps_per_epoch = max(1, samples // self.batch)

    def __len__(self) -> int:
        return self.epochs * self.steps_per_epoch - self.first_step

    def __iter__(self) -> Iterator[list[Key]]:
        first_epoch, skip = divmod(self.first_step, self.steps_per_epoch)
        for epoch in range(first_epoch, self.epochs):
            order = self._order(epoch)
            for step in range(skip, self.steps_per_epoch):
                yield self._share(epoch, order, step)
            skip = 0

    def keys(self, step: int) -> list[Key]:
        """The whole batch of any step, counted from the beginning of training."""
        epoch, step = divmod(step, self.steps_per_epoch)
        return [(epoch, int(i)) for i in self._order(epoch)[step * self.batch : (step + 1) * self.batch]]

    def _order(self, epoch: int) -> NDArray[np.int64]:
        order = np.random.default_rng((self.seed, epoch)).permutation(self.samples)
        return np.resize(order, max(self.samples, self.batch))

    def _share(self, epoch: int, order: NDArray[np.int64], step: int) -> list[Key]:
        whole = order[step * self.batch : (step + 1) * self.batch]
        return [(epoch, int(i)) for i in whole[self.rank :: self.world]]


def make_loader(
    samples: Samples, batches: EpochBatches, *, workers: int, device: torch.device = CPU
) -> DataLoader[Any]:
    """A loader that gives each batch as `Batch`.

    That is images uint8 [batch, 3, h, w] RGB, boxes a list of float32 [n, 4] fractions, labels a list of int64 [n]; in
    pinned memory where they go to a GPU.
    """
    return DataLoader(
        samples,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=_start_worker,
        prefetch_factor=4 if workers else None,
        pin_memory=device.type == "cuda",
    )


def end_workers(batches: Iterator[Any]) -> None:
    """End the processes of a loader's iterator now.

    They ignore SIGTERM, by which Python would end them when it exits and then wait for ever; and a traceback may keep
    the iterator alive until then.
    """
    shutdown = getattr(batches, "_shutdown_workers", None)  # torch calls it when the iterator is deleted
    if shutdown:
        shutdown()


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
