"""A sample depends on (seed, epoch, index) alone, and batches can begin at any step."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from ssd_edge.data.augment import TrainTransform
from ssd_edge.data.dataset import DetectionDataset, ImageRecord, box_areas
from ssd_edge.data.samples import CodesSamples, EpochBatches, ImageSamples, collate, make_loader
from ssd_edge.errors import DatasetError

BOXES = np.array([[40, 30, 100, 90], [10, 70, 40, 110]], np.float32)
LABELS = np.array([1, 0], np.int64)
CROWD = np.array([False, True])


@pytest.fixture
def samples(tmp_path: Path) -> ImageSamples:
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    records = []
    for number in range(6):
        path = tmp_path / f"{number}.png"
        assert cv2.imwrite(str(path), np.roll(noise, 10 * number, axis=1))
        records.append(ImageRecord(path, number, (120, 160), BOXES, LABELS, box_areas(BOXES), CROWD))
    dataset = DetectionDataset("noise", ("a", "b"), (1, 2), tuple(records))
    return ImageSamples(dataset, TrainTransform((40, 60), (10, 20, 30)), seed=7)


def test_batches_leave_out_crowds(samples: ImageSamples) -> None:
    batch = collate([samples[0, index] for index in range(6)])
    assert not isinstance(batch, DatasetError)
    images, boxes, labels = batch
    assert images.shape == (6, 3, 40, 60)
    assert images.dtype == torch.uint8
    assert all(len(b) == len(label) <= 1 for b, label in zip(boxes, labels, strict=True))
    assert {label for image_labels in labels for label in image_labels.tolist()} == {1}


def test_an_epoch_takes_every_sample_once_in_another_order() -> None:
    batches = list(EpochBatches(samples=6, batch=3, epochs=2, seed=0))
    assert len(batches) == 4
    first, second = batches[0] + batches[1], batches[2] + batches[3]
    assert sorted(first) == [(0, index) for index in range(6)]
    assert sorted(second) == [(1, index) for index in range(6)]
    assert [index for _, index in first] != [index for _, index in second]


def test_a_resumed_run_sees_the_batches_that_were_left() -> None:
    whole = list(EpochBatches(samples=7, batch=3, epochs=3, seed=1))
    for step in (1, 2, 3):
        assert list(EpochBatches(samples=7, batch=3, epochs=3, seed=1, first_step=step)) == whole[step:]


def test_fewer_samples_than_a_batch_still_make_one() -> None:
    assert [len(batch) for batch in EpochBatches(samples=3, batch=16, epochs=2, seed=0)] == [3, 3]
    assert list(EpochBatches(samples=1, batch=16, epochs=2, seed=0)) == [[(0, 0)] * 2, [(1, 0)] * 2]


def test_workers_change_nothing(samples: ImageSamples) -> None:
    def images(workers: int) -> torch.Tensor:
        batches = EpochBatches(len(samples), batch=3, epochs=2, seed=0)
        return torch.cat([batch[0] for batch in make_loader(samples, batches, workers=workers)])

    in_process = images(0)
    assert torch.equal(images(2), in_process)
    assert not torch.equal(in_process[:6], in_process[6:])


def test_every_epoch_brings_fresh_scenes() -> None:
    codes = CodesSamples(scenes_per_epoch=2, size_hw=(64, 64), seed=0)

    def image(epoch: int, index: int) -> torch.Tensor:
        sample = codes[epoch, index]
        assert not isinstance(sample, DatasetError)
        return sample[0]

    images = [image(epoch, index) for epoch in range(2) for index in range(2)]
    assert images[0].shape == (3, 64, 64)
    assert all(not torch.equal(a, b) for i, a in enumerate(images) for b in images[:i])
    assert torch.equal(image(1, 0), images[2])
