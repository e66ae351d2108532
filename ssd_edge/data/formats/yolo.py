"""YOLO (https://docs.ultralytics.com/datasets/detect/): a text file an image, one box a line.

Understood are a YAML file with `names` (list or map), maybe `path`, and a folder, a list file or a list of
these for each split; a folder with one such YAML; and a folder with `images/`, `labels/` and `classes.txt`,
where the folders in `images/` are the splits. An image's boxes are in the file of its name under `labels/` in
place of `images/`, or beside it. A line is `class cx cy w h` as fractions of the image; one with a polygon
(`class x1 y1 x2 y2 x3 y3 …`) gives the box around it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ssd_edge.data.dataset import (
    UNKNOWN_LABEL,
    DetectionDataset,
    ImageRecord,
    box_areas,
    number_or_nan,
    size_hw_of,
)
from ssd_edge.errors import DatasetError, MissingDependencyError
from ssd_edge.images import IMAGE_SUFFIXES

LOOKED_FOR = "YOLO: a .yaml with names, or images/ with labels/ and classes.txt"

_SPLIT_KEYS = ("train", "val", "test")
_ALL = "all"  # the only split of a folder whose images/ has no folders


def recognises(path: Path) -> bool:
    """Whether `path` is a YAML file, a folder with one, or one with `images/` and `labels/`."""
    return _yaml_file(path) is not None or ((path / "images").is_dir() and (path / "labels").is_dir())


def list_splits(path: Path) -> list[str]:
    """Names of the splits whose images are there.

    Raises:
        DatasetError, MissingDependencyError: as `read`.
    """
    return list(_split_sources(path))


def read(path: Path, splits: Sequence[str]) -> list[DetectionDataset]:
    """Read the named splits, or all when none is named. Every image is opened for its size.

    Raises:
        DatasetError: no class names, or a YAML file that is not as above or none of whose images are there.
        MissingDependencyError: a YAML file, and PyYAML is not installed.
    """
    names = _class_names(path)
    sources = _split_sources(path)
    datasets = []
    for split in splits or sources:
        images = list(dict.fromkeys(chain.from_iterable(_images_in(source) for source in sources[split])))
        with ThreadPoolExecutor(2) as pool:
            records = tuple(pool.map(partial(_record, names), range(1, len(images) + 1), images))
        datasets.append(DetectionDataset(f"{path.name} {split}", tuple(names.values()), tuple(names), records))
    return datasets


def _yaml_file(path: Path) -> Path | None:
    """The YAML file that `path` is, or the first in it that has class names."""
    if path.is_file():
        return path if path.suffix.lower() in (".yaml", ".yml") else None
    files = sorted([*path.glob("*.yaml"), *path.glob("*.yml")])
    return next((file for file in files if b"names:" in file.read_bytes()), None)


def _load_yaml(file: Path) -> dict[str, Any]:
    try:
        import yaml  # here, because everything else reads without it
    except ImportError as error:
        raise MissingDependencyError(f"{file}: reading YAML needs PyYAML", extra="train") from error
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise DatasetError(f"cannot read {file}: {error}; expected YAML with names and train") from error
    if not isinstance(data, dict) or not isinstance(data.get("names"), (list, dict)):
        raise DatasetError(f"{file}: no `names`; expected a list or a map of class names")
    return data


def _class_names(path: Path) -> dict[int, str]:
    """Class names by YOLO's number."""
    if file := _yaml_file(path):
        names = _load_yaml(file)["names"]
        numbered = names.items() if isinstance(names, dict) else enumerate(names)
        try:
            return dict(sorted((int(number), str(name)) for number, name in numbered))
        except (TypeError, ValueError) as error:
            raise DatasetError(f"{file}: `names` must map whole numbers to names ({error})") from error
    for file in (path / "classes.txt", path / "labels" / "classes.txt"):
        if file.is_file():
            try:
                lines = file.read_text(encoding="utf-8-sig").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise DatasetError(f"cannot read {file}: {error}; save it as UTF-8, one name a line") from error
            return {number: line.strip() for number, line in enumerate(lines) if line.strip()}
    raise DatasetError(f"{path}: YOLO labels without class names; write classes.txt with one name a line")


def _split_sources(path: Path) -> dict[str, list[Path]]:
    """Folders of images and list files by split name; those that are not there are left out."""
    if file := _yaml_file(path):
        data = _load_yaml(file)
        places = {key: _places(file, data, data[key]) for key in _SPLIT_KEYS if data.get(key)}
        found = {split: _existing(alternatives) for split, alternatives in places.items()}
        if not places:
            raise DatasetError(f"{file}: none of {', '.join(_SPLIT_KEYS)}; add where the images are")
        if not any(found.values()):
            tried = dict.fromkeys(str(place) for split in places.values() for place in chain.from_iterable(split))
            raise DatasetError(f"{file}: its images are not there; mend its paths; tried {', '.join(tried)}")
        return {split: sources for split, sources in found.items() if sources}
    folders = sorted(folder for folder in (path / "images").iterdir() if folder.is_dir())
    return {folder.name: [folder] for folder in folders} or {_ALL: [path / "images"]}


def _places(file: Path, data: Mapping[str, Any], value: Any) -> list[list[Path]]:
    """For each entry of a split, where it can be: below `path` and the YAML's own folder, as such files travel."""
    roots = (file.parent / str(data.get("path") or "."), file.parent)
    entries = map(str, value if isinstance(value, list) else [value])
    # Roboflow writes ../train/images and means train/images.
    return [[root / name for root in roots for name in (entry, entry.removeprefix("../"))] for entry in entries]


def _existing(places: Sequence[Sequence[Path]]) -> list[Path]:
    """Of each entry's places, the first that is there."""
    found = (next(filter(os.path.exists, alternatives), None) for alternatives in places)
    return [place.resolve() for place in found if place]


def _images_in(source: Path) -> list[Path]:
    """The images in a folder and its folders, or those that a list file names, relative to its folder."""
    if source.is_dir():
        return sorted(path for path in source.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if source.suffix.lower() in IMAGE_SUFFIXES:
        return [source]
    lines = source.read_text(encoding="utf-8", errors="replace").splitlines()
    return [source.parent / line.strip() for line in lines if line.strip()]


def _record(names: Mapping[int, str], image_id: int, path: Path) -> ImageRecord:
    height, width = size_hw_of(path)
    label_of = {number: label for label, number in enumerate(names)}
    labels, boxes = [], []
    for line in _label_lines(path):
        number, *values = (number_or_nan(word) for word in line)
        labels.append(label_of.get(int(number), UNKNOWN_LABEL) if np.isfinite(number) else UNKNOWN_LABEL)
        boxes.append(_box_fractions(values))
    fractions = np.array(boxes, np.float64).reshape(-1, 4)
    boxes_xyxy = (fractions * (width, height, width, height)).astype(np.float32)
    crowd = np.zeros(len(labels), np.bool_)
    return ImageRecord(path, image_id, (height, width), boxes_xyxy, np.array(labels), box_areas(boxes_xyxy), crowd)


def _label_lines(image: Path) -> list[list[str]]:
    """The words of each line of the image's label file; none when there is no such file."""
    parts = list(image.with_suffix(".txt").parts)
    if "images" in parts[:-1]:
        last = len(parts) - 1 - parts[::-1].index("images", 1)
        parts[last] = "labels"
    file = Path(*parts)
    if not os.path.isfile(file):
        file = image.with_suffix(".txt")
    if not os.path.isfile(file):
        return []
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line.split() for line in lines if line.strip()]


def _box_fractions(values: Sequence[float]) -> Sequence[float]:
    """The box x0 y0 x1 y1 of a label line's numbers; NaN when they are too few."""
    if len(values) < 4:
        return [np.nan] * 4
    if len(values) >= 6 and len(values) % 2 == 0:  # a polygon
        points = np.array(values).reshape(-1, 2)  # [n, 2]
        return [*points.min(axis=0), *points.max(axis=0)]
    cx, cy, w, h = values[:4]  # a fifth is the confidence of a predicted box
    return [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
