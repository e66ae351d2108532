"""Which images to calibrate on: few, seeded, spread over classes, object sizes and image sizes."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ssd_edge.card import file_sha256
from ssd_edge.choices import CALIBRATION_IMAGES
from ssd_edge.data.dataset import DetectionDataset, ImageRecord
from ssd_edge.data.formats import coco, voc, yolo
from ssd_edge.data.readers import find_split, list_splits, read_dataset
from ssd_edge.errors import DatasetError, UsageError
from ssd_edge.images import IMAGE_SUFFIXES, load_image
from ssd_edge.runtime.preprocess import preprocess

logger = logging.getLogger(__name__)

# Sides of COCO's small and medium objects (cocoeval.py), in an image of COCO's usual 640×480.
SMALL, MEDIUM = 32 / math.sqrt(640 * 480), 96 / math.sqrt(640 * 480)


@dataclass(frozen=True)
class CalibrationImages:
    """The images to calibrate on, in the order in which they are shown.

    Raises:
        DatasetError: there are none.
    """

    paths: tuple[Path, ...]

    def __post_init__(self) -> None:
        if not self.paths:
            raise DatasetError("no images to calibrate on; give a dataset or a folder with images")
        if len(self.paths) == 1:
            logger.warning(
                "ranges of one image will clip what other images have; calibrate on some hundred (%s)", self.paths[0]
            )

    def __len__(self) -> int:
        return len(self.paths)

    def fingerprint(self, size_hw: tuple[int, int]) -> str:
        """SHA-256 (lower-case hex) of the files' contents in order, and of what `preprocess` makes of images.

        Raises:
            DatasetError: a file that cannot be read.
        """
        digest = hashlib.sha256(json.dumps([len(self.paths), list(size_hw)]).encode())
        digest.update(preprocess_probe())
        for path in self.paths:
            digest.update(_file_digest(path))
        return digest.hexdigest()


def calibration_images(
    source: Path, count: int = CALIBRATION_IMAGES, *, split: str | None = None, seed: int = 0, progress: bool = True
) -> CalibrationImages:
    """Choose images from a dataset (COCO, VOC, YOLO), an unlabelled folder with all below it, or one image file.

    Args:
        split: as for `read_dataset`. None: `train` where there is one, so that validation images stay unseen, else
            all there is. An unlabelled folder has no splits.

    Raises:
        DatasetError: nothing there, no image, a damaged dataset, or no such split.
        UsageError: `count` is below 1.
    """
    source = Path(source)
    if not source.exists():
        raise DatasetError(f"no images to calibrate on at {source}: no such file or folder; check the path")
    if any(reader.recognises(source) for reader in (coco, voc, yolo)):
        chosen = split if split is not None else find_split(list_splits(source), "train")
        return choose_images(read_dataset(source, chosen), count, seed=seed, progress=progress)
    if split is not None:
        raise DatasetError(f"{source}: split {split!r} does not exist; this folder is no dataset in a known format")
    found = [source] if source.is_file() else list(source.rglob("*"))
    paths = [path for path in found if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
    if not paths:
        raise DatasetError(
            f"no images to calibrate on in {source}; expected a dataset (COCO, VOC, YOLO) or files that end in "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return choose_images(paths, count, seed=seed, progress=progress)


def choose_images(
    source: DetectionDataset | Sequence[Path], count: int = CALIBRATION_IMAGES, *, seed: int = 0, progress: bool = True
) -> CalibrationImages:
    """Choose `count` images; the same ones in the same order for one seed, whatever the order of `source`.

    Of a dataset, the class that has the fewest chosen images gets the next one, the class with the fewest images at
    all going first; of its images, one whose classes, object sizes and image size are the rarest among those chosen.
    Images without a box are a class of their own. Of a list, one image from each of `count` equal stretches of the
    sorted list, for neighbours are often frames of one video. An image that cannot be read is named in a warning and
    replaced by another one.

    Raises:
        DatasetError: no image, or none that can be read.
        UsageError: `count` is below 1.
    """
    if count < 1:
        raise UsageError(f"{count} calibration images; expected at least 1")
    random = np.random.default_rng(seed)
    if isinstance(source, DetectionDataset):
        records = sorted(source.records, key=lambda record: record.path.as_posix())
        records = list({record.path: record for record in records}.values())
        paths = [record.path for record in records]
        rank = random.permutation(len(paths))
        picks = _spread_over_labels(records, len(source.class_names), rank)
    else:
        paths = sorted({Path(path) for path in source}, key=Path.as_posix)
        rank = random.permutation(len(paths))
        picks = _spread_over_positions(min(count, len(paths)), rank, random)
    chosen = _readable(paths, picks, count, progress) if paths else []
    if paths and not chosen:
        raise DatasetError(f"none of {len(paths)} images to calibrate on can be read; check the files")
    if paths and len(chosen) < count:
        logger.warning("calibrating on all %d images that there are, %d were asked for", len(chosen), count)
    chosen.sort(key=lambda index: rank[index])  # or a moving average would end on the images that were picked last
    return CalibrationImages(tuple(paths[index] for index in chosen))


_Picks = Generator[int, bool, None]
"""Gives an index, is sent whether that image can be used, gives the next."""


def _readable(paths: Sequence[Path], picks: _Picks, count: int, progress: bool) -> list[int]:
    """The first `count` picks that can be read."""
    chosen: list[int] = []
    total = min(count, len(paths))
    with tqdm(total=total, desc="choosing", unit="image", leave=False, disable=None if progress else True) as bar:
        try:
            pick = next(picks)
            while True:
                usable = _can_be_read(paths[pick])
                if usable:
                    chosen.append(pick)
                    bar.update()
                    if len(chosen) == count:
                        break
                pick = picks.send(usable)
        except StopIteration:
            pass
    return chosen


def _can_be_read(path: Path) -> bool:
    try:
        load_image(path)
    except DatasetError as error:
        logger.warning("left out of the calibration: %s", error)
        return False
    return True


def _spread_over_positions(count: int, rank: NDArray[np.int64], random: np.random.Generator) -> _Picks:
    """One index from each of `count` equal stretches, then the others by rank."""
    edges = np.linspace(0, len(rank), count + 1).round().astype(int)
    first = [random.integers(start, end) for start, end in pairwise(edges)]
    taken = set(first)
    others = [index for index in np.argsort(rank) if index not in taken]
    for index in (*first, *others):
        yield int(index)


def _spread_over_labels(records: Sequence[ImageRecord], classes: int, rank: NDArray[np.int64]) -> _Picks:
    """Indices of all images, each from the class that has the fewest of those picked so far."""
    features, images_of_class = _features(records, classes)
    members = [np.flatnonzero(column) for column in images_of_class.T]  # by class
    members = [indices[np.argsort(rank[indices])] for indices in members]
    picked = np.zeros(images_of_class.shape[1], np.int64)  # [classes + 1]
    feature_picked = np.zeros(features.shape[1])
    while True:
        in_want = [c for c, indices in enumerate(members) if len(indices)]
        if not in_want:
            return
        wanted = min(in_want, key=lambda c: (picked[c], images_of_class[:, c].sum(), c))
        candidates = members[wanted]
        rarity = features[candidates] @ (1 / (1 + feature_picked)) / features[candidates].sum(axis=1)
        best = int(candidates[rarity.round(9).argmax()])  # rounded: a tie, which the rank decides, stays one
        of_class = images_of_class[best]
        for c in np.flatnonzero(of_class):
            members[c] = members[c][members[c] != best]
        if (yield best):
            picked += of_class
            feature_picked += features[best]


def _features(records: Sequence[ImageRecord], classes: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """What each image shows: bool [images, features], and its classes alone, bool [images, classes + 1].

    A feature is a class in one of three object sizes, an image without a usable box, or an image size (area by
    powers of two, and whether it is wide, high or square). The last class is that of images without a usable box.
    """
    image_sizes = [_image_size_bucket(record.size_hw) for record in records]
    column_of_size = {size: i for i, size in enumerate(sorted(set(image_sizes)))}
    objects = np.zeros((len(records), classes + 1, 3), np.bool_)
    shapes = np.zeros((len(records), len(column_of_size)), np.bool_)
    for index, record in enumerate(records):
        labels, sizes = _objects(record)
        objects[index, labels, sizes] = True
        objects[index, classes, 0] = not len(labels)
        shapes[index, column_of_size[image_sizes[index]]] = True
    features = np.concatenate([objects.reshape(len(records), -1), shapes], axis=1)
    return features, np.asarray(objects.any(axis=2))


def _objects(record: ImageRecord) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels and sizes (0 small, 1 medium, 2 large) of the boxes that have a class and an extent."""
    sides = record.boxes_xyxy[:, 2:] - record.boxes_xyxy[:, :2]  # [n, 2]
    usable = np.isfinite(sides).all(axis=1) & (sides > 0).all(axis=1) & (record.labels >= 0) & ~record.crowd
    height, width = record.size_hw if min(record.size_hw) > 0 else (480, 640)
    side = np.sqrt(sides[usable].prod(axis=1) / (height * width))  # as a fraction of the image's
    return record.labels[usable], np.digitize(side, [SMALL, MEDIUM])


def _image_size_bucket(size_hw: tuple[int, int]) -> tuple[int, int]:
    height, width = max(size_hw[0], 1), max(size_hw[1], 1)
    return round(math.log2(height * width)), round(2 * math.log2(width / height))


def _file_digest(path: Path) -> bytes:
    try:
        return bytes.fromhex(file_sha256(path))
    except OSError as error:
        raise DatasetError(f"cannot read image {path}: {error.strerror}; check the path") from error


def preprocess_probe() -> bytes:
    """What `preprocess` makes of a small image, twice as large and half as large.

    Every value there is exact, so machines agree about it, and it changes with channels, interpolation or antialias.
    """
    image = (16 * (np.arange(4 * 4 * 3).reshape(4, 4, 3) * 7 % 16)).astype(np.uint8)
    return b"".join(preprocess(image, size_hw).tobytes() for size_hw in ((8, 8), (2, 2)))
