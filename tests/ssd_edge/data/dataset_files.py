"""Datasets written by hand in COCO and VOC format."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ssd_edge.data.dataset import DetectionDataset


def write_image(path: Path, width: int = 100, height: int = 50) -> None:
    """A grey image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((height, width, 3), 128, np.uint8))


def write_coco(file: Path, images: list[Any], annotations: list[Any], categories: list[Any] | None = None) -> None:
    """COCO JSON; the classes are dog, 7, and cat, 3."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if categories is None:
        categories = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def write_voc(folder: Path, stem: str, objects: str, head: str = "") -> None:
    """A grey image and its annotation in Pascal VOC's folders."""
    write_image(folder / "JPEGImages" / f"{stem}.jpg")
    (folder / "Annotations").mkdir(exist_ok=True)
    text = f"<annotation><filename>{stem}.jpg</filename>{objects}</annotation>"
    (folder / "Annotations" / f"{stem}.xml").write_text(head + text)


def voc_object(name: str, *corners: object, difficult: int = 0) -> str:
    """An object of an annotation; corners xmin, ymin, xmax, ymax."""
    sides = "".join(
        f"<{side}>{value}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    )
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{sides}</bndbox></object>"


def write_voc_split(folder: Path, split: str, text: str) -> None:
    """A list of images."""
    (folder / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
    (folder / "ImageSets" / "Main" / f"{split}.txt").write_text(text)


def names(dataset: DetectionDataset) -> list[str]:
    """File names of the images."""
    return [record.path.name for record in dataset.records]
