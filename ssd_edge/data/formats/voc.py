"""Pascal VOC: a folder with `Annotations/*.xml`, `JPEGImages/` or `images/`, maybe `ImageSets/Main/*.txt`.

Coordinates: VOC's pixels count from 1 and `xmax`, `ymax` are the last pixels inside the box (VOC2012 devkit,
section "Annotation"). Here pixels count from 0 and the far edge is exclusive, so a box becomes
`xmin − 1, ymin − 1, xmax, ymax`: from 1 to 640 covers all of a 640-pixel row. A box with `xmax = xmin` is
taken as one that was clicked and not drawn, and stays without width for lint to name.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn
from xml.etree import ElementTree

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
from ssd_edge.images import IMAGE_SUFFIXES

LOOKED_FOR = "Pascal VOC: Annotations/*.xml with JPEGImages/ or images/"


def recognises(path: Path) -> bool:
    """Whether `path` is a folder with annotations and images as above."""
    return _annotation_folder(path) is not None and _image_folder(path) is not None


def list_splits(path: Path) -> list[str]:
    """Names in `ImageSets/Main`, without VOC's lists of one class (two columns)."""
    return [file.stem for file in sorted(path.glob("ImageSets/Main/*.txt")) if _is_image_list(file)]


def read(path: Path, splits: Sequence[str]) -> list[DetectionDataset]:
    """Read the named splits, or every annotation there is when none is named.

    Classes are the sorted names of all annotations, so labels do not depend on the split. An image that a
    split lists and that has no annotation file is kept without boxes, for lint to count.

    Raises:
        DatasetError: an annotation file is not VOC's XML.
    """
    folder, images = _annotation_folder(path), _image_folder(path)
    if folder is None or images is None:
        raise DatasetError(f"{path} is no Pascal VOC folder; looked for {LOOKED_FOR}")
    roots = {file.stem: _parse(file) for file in sorted(folder.glob("*.xml"))}
    names = sorted({_text(thing, "name") for root in roots.values() for thing in root.iter("object")} - {""})
    ids_of_split = {split: _image_list(path / "ImageSets" / "Main" / f"{split}.txt") for split in splits}
    stems = sorted({*roots, *(stem for ids in ids_of_split.values() for stem in ids)})
    number_of = {stem: number for number, stem in enumerate(stems, start=1)}

    def dataset(name: str, stems: Sequence[str]) -> DetectionDataset:
        nothing = ElementTree.Element("annotation")
        records = (_record(images, stem, number_of[stem], roots.get(stem, nothing), names) for stem in stems)
        return DetectionDataset(name, tuple(names), tuple(range(1, len(names) + 1)), tuple(records))

    if not splits:
        return [dataset(path.name, stems)]
    return [dataset(f"{path.name} {split}", ids) for split, ids in ids_of_split.items()]


def _annotation_folder(path: Path) -> Path | None:
    folders = (path / "Annotations", path / "annotations")
    return next((f for f in folders if f.is_dir() and next(f.glob("*.xml"), None) is not None), None)


def _image_folder(path: Path) -> Path | None:
    return next((f for f in (path / "JPEGImages", path / "images") if f.is_dir()), None)


def _is_image_list(file: Path) -> bool:
    """Whether each line of a text file is one word: an image's name, and not a class list's name and ±1."""
    with open(file, encoding="utf-8", errors="replace") as stream:
        return all(len(line.split()) <= 1 for line in stream)


def _image_list(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8", errors="replace").split()


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses a document type, and with it every entity that could expand or reach for a file."""

    def doctype(self, name: str, pubid: str, system: str) -> NoReturn:
        raise DatasetError(f"it declares a document type ({name}), which VOC's XML never does")


def _parse(file: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(file, ElementTree.XMLParser(target=_NoDoctype())).getroot()
    except (ElementTree.ParseError, DatasetError, OSError) as error:
        raise DatasetError(f"cannot read {file}: {error}; mend or remove the file") from error
    except (ValueError, LookupError) as error:  # an encoding such as GBK, or one that there is not
        raise DatasetError(f"cannot read {file}: {error}; save the file as UTF-8 and have its head say so") from error


def _record(images: Path, stem: str, image_id: int, root: ElementTree.Element, names: Sequence[str]) -> ImageRecord:
    path = _find_image(images, stem, _text(root, "filename"))
    size_hw = size_hw_of(path, root.findtext("size/height"), root.findtext("size/width"))
    things = list(root.iter("object"))
    corners = [
        [number_or_nan(thing.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")]
        for thing in things
    ]
    boxes = np.array(corners, np.float32).reshape(-1, 4)
    undrawn = boxes[:, 2:] <= boxes[:, :2]  # [n, 2]
    boxes -= np.concatenate([np.ones_like(undrawn), undrawn], axis=1)
    label_of = {name: label for label, name in enumerate(names)}
    labels = np.array([label_of.get(_text(thing, "name"), UNKNOWN_LABEL) for thing in things])
    difficult = np.array([_text(thing, "difficult") == "1" for thing in things])
    return ImageRecord(path, image_id, size_hw, boxes, labels, box_areas(boxes), difficult)


def _find_image(images: Path, stem: str, file_name: str) -> Path:
    """The image named as the annotation file, else the one that it names in `filename`."""
    suffix = Path(file_name).suffix or ".jpg"
    suffixes = [suffix, *sorted(IMAGE_SUFFIXES), *sorted(s.upper() for s in IMAGE_SUFFIXES)]
    candidates = [images / f"{stem}{s}" for s in suffixes]
    if file_name:
        candidates.append(images / file_name)
    return next((path for path in candidates if os.path.isfile(path)), candidates[0])


def _text(element: ElementTree.Element, tag: str) -> str:
    return (element.findtext(tag) or "").strip()
