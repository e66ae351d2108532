"""COCO JSON (https://cocodataset.org/#format-data): a file, or a folder with files and images.

Folders that are understood, with the split that a file stands for:

    annotations/instances_<split>.json     COCO's own; annotations/<split>.json too
    instances_<split>.json, annotations_<split>.json, annotations.json     in the folder itself
    <split>/_annotations.coco.json         Roboflow's
    <split>.json                           in the folder itself, when there is nothing of the above

An image's `file_name` is looked for as an absolute path, then in: the JSON file's folder, `images/` in it,
`images/<split>/` in it, and the same with `<split>/` first for the folder above.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
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
from ssd_edge.errors import DatasetError

LOOKED_FOR = "COCO: a .json file, annotations/*.json, annotations*.json or <split>/_annotations.coco.json"

_PATTERNS = (
    "annotations/instances_*.json",  # first, for COCO's captions_*.json beside them are not boxes
    "annotations/*.json",
    "instances*.json",
    "annotations*.json",
    "_annotations.coco.json",
    "*/_annotations.coco.json",
)


def recognises(path: Path) -> bool:
    """Whether `path` is a JSON file, or a folder laid out as one of those above."""
    return bool(_split_files(path))


def list_splits(path: Path) -> list[str]:
    """Names of the splits, one a JSON file."""
    return list(_split_files(path))


def read(path: Path, splits: Sequence[str]) -> list[DetectionDataset]:
    """Read the named splits, or all when none is named.

    Raises:
        DatasetError: a file is not COCO JSON for detection.
    """
    files = _split_files(path)
    return [_read_file(files[split], split) for split in splits or files]


def _split_files(path: Path) -> dict[str, Path]:
    """JSON files by split name; of the layouts above, the first that is there."""
    if path.is_file():
        return {_split_name(path): path} if path.suffix.lower() == ".json" else {}
    for pattern in _PATTERNS:
        if files := sorted(path.glob(pattern)):
            return {_split_name(file): file for file in files}
    return {file.stem: file for file in sorted(path.glob("*.json")) if _looks_like_coco(file)}


def _split_name(file: Path) -> str:
    if file.name == "_annotations.coco.json":
        return file.parent.name
    return file.stem.removeprefix("instances_").removeprefix("annotations_")


def _looks_like_coco(file: Path) -> bool:
    """Whether the start of a JSON file of any name has a COCO key, so that a stray JSON is no dataset."""
    with open(file, "rb") as stream:
        start = stream.read(1 << 16)
    return start.lstrip().startswith(b"{") and any(key in start for key in (b'"images"', b'"annotations"'))


def _read_file(file: Path, split: str) -> DetectionDataset:
    data = _load(file)
    categories = sorted(data["categories"], key=lambda category: category["id"])
    label_of_id = {category["id"]: label for label, category in enumerate(categories)}
    annotations: dict[Any, list[dict[str, Any]]] = {image["id"]: [] for image in data["images"]}
    if len(annotations) != len(data["images"]):
        raise DatasetError(f"{file}: image ids repeat; each entry of `images` needs its own id")
    for annotation in data["annotations"]:
        # An annotation of an image that is not listed becomes one of a missing image, for lint to name.
        annotations.setdefault(annotation["image_id"], []).append(annotation)

    images = {image["id"]: image for image in data["images"]}
    whole_ids = all(isinstance(image_id, int) for image_id in annotations)
    records = []
    for number, (image_id, of_image) in enumerate(annotations.items(), start=1):
        image = images.get(image_id, {"file_name": f"<image id {image_id} is not in `images`>"})
        path = _find_image(file, split, str(image["file_name"]))
        size_hw = size_hw_of(path, image.get("height"), image.get("width"))
        records.append(_record(path, image_id if whole_ids else number, size_hw, of_image, label_of_id))
    name = str(Path(file.parent.name, file.name))
    names = tuple(str(category["name"]) for category in categories)
    return DetectionDataset(name, names, tuple(category["id"] for category in categories), tuple(records))


def _load(file: Path) -> dict[str, Any]:
    """The JSON of a file, with the keys that are relied on checked.

    Raises:
        DatasetError: not JSON, or not COCO's structure.
    """
    try:
        data = json.loads(file.read_bytes())
    except OSError as error:
        raise DatasetError(f"cannot read {file}: {error.strerror}; check the path") from error
    except (ValueError, RecursionError) as error:  # also bytes that are no text, and brackets without end
        raise DatasetError(f"{file} is not JSON ({error}); expected COCO annotations") from error
    required = {
        "images": ("id", "file_name"),
        "annotations": ("image_id", "category_id"),
        "categories": ("id", "name"),
    }
    for table, keys in required.items():
        rows = data.get(table) if isinstance(data, dict) else None
        if not isinstance(rows, list):
            raise DatasetError(f"{file} is not COCO JSON: no list `{table}`; expected images, annotations, categories")
        for index, row in enumerate(rows):
            if not isinstance(row, dict) or not all(isinstance(row.get(key), (str, int, float)) for key in keys):
                raise DatasetError(f"{file}: {table}[{index}] needs {' and '.join(keys)}; add them or remove the entry")
    if not all(isinstance(category["id"], int) for category in data["categories"]):
        raise DatasetError(f"{file}: category ids must be whole numbers")
    return {table: data[table] for table in required}


def _record(
    path: Path,
    image_id: int,
    size_hw: tuple[int, int],
    annotations: Sequence[dict[str, Any]],
    label_of_id: dict[int, int],
) -> ImageRecord:
    xywh = np.array([_four_numbers(a.get("bbox")) for a in annotations], np.float64).reshape(-1, 4)
    boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1).astype(np.float32)
    given_areas = [number_or_nan(a.get("area")) for a in annotations]
    areas = np.where(np.isfinite(given_areas), given_areas, box_areas(boxes))
    labels = [label_of_id.get(a["category_id"], UNKNOWN_LABEL) for a in annotations]
    crowd = [bool(a.get("iscrowd", 0)) for a in annotations]
    return ImageRecord(path, image_id, size_hw, boxes, np.array(labels), areas, np.array(crowd))


def _four_numbers(bbox: Any) -> list[float]:
    """A `bbox` as four numbers; NaN for what is missing or no number."""
    values = bbox if isinstance(bbox, list) and len(bbox) == 4 else [None] * 4
    return [number_or_nan(value) for value in values]


def _find_image(file: Path, split: str, file_name: str) -> Path:
    """The image's path in the first place where it is; in the JSON file's folder when it is nowhere."""
    folder, above = file.parent, file.parent.parent
    places = (
        folder,
        folder / "images",
        folder / "images" / split,
        above / split,
        above / "images" / split,
        above / "images",
        above,
    )
    for place in places:
        candidate = place / file_name  # an absolute file_name replaces the place
        if os.path.isfile(candidate):  # False too for what cannot be a file's name, for it is too long
            return candidate
    return folder / file_name
