"""A tiny detector as checkpoint and ONNX file, and a dataset whose boxes are what it finds."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import torch

from ssd_edge.card import ONNX_METADATA_KEY, ModelCard, file_sha256
from ssd_edge.checkpoint import Checkpoint, save_checkpoint
from ssd_edge.data.dataset import DetectionDataset
from ssd_edge.data.readers import read_dataset
from ssd_edge.images import load_image
from ssd_edge.models.create import create_model
from ssd_edge.runtime.backends.torch import TorchDetector
from tests.detectors.tiny_arch import WITHOUT_NORM

if TYPE_CHECKING:
    from onnx import ModelProto

CLASSES = ("square", "disc")
IMAGES = 6
SIDE = 96
BACKGROUND = 4.0  # added to its logits, so that few anchors find something


class Tiny:
    """A checkpoint of a random network that is sure of what it finds, its ONNX file, and the dataset."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(3)
        model = create_model(WITHOUT_NORM, len(CLASSES))
        head: Any = model.head.classification_head
        with torch.no_grad():
            for parameter in head.parameters():
                parameter *= 6  # logits further apart, so that some scores are high and most are low
            for level in head.module_list:
                level.bias.view(-1, len(CLASSES) + 1)[:, 0] += BACKGROUND
        self.card = model.make_card(CLASSES, (1, 4))
        self.folder = folder
        self.checkpoint = folder / "tiny.pt"
        save_checkpoint(self.checkpoint, Checkpoint(self.card, model.state_dict()))
        self.data = folder / "data"
        self._write_images()
        with TorchDetector(model, self.card) as detector:
            self._write_annotations(detector)

    @cached_property
    def onnx(self) -> Path:
        """The ONNX file, which is written when it is first asked for; skips the test where a package is missing."""
        for package in ("onnx", "onnxscript", "pycocotools", "zxingcpp"):
            pytest.importorskip(package)
        from ssd_edge.export.onnx_export import export_onnx

        path = self.folder / "tiny.onnx"
        export_onnx(self.checkpoint, path, data=self.dataset)
        return path

    @property
    def dataset(self) -> DetectionDataset:
        return read_dataset(self.data)

    def write(
        self,
        path: Path,
        change: Callable[[ModelProto], None] = lambda model: None,
        **card: object,
    ) -> Path:
        """The ONNX file after a change of its graph and of its card."""
        onnx = pytest.importorskip("onnx")
        model = onnx.load(self.onnx)
        change(model)
        values = json.loads(self.card.to_json()) | {"parent_sha256": file_sha256(self.checkpoint)} | card
        text = ModelCard.from_json(json.dumps(values)).to_json()
        onnx.helper.set_model_props(model, {ONNX_METADATA_KEY: text})
        onnx.save(model, path)
        return path

    def _write_images(self) -> None:
        random = np.random.default_rng(0)
        (self.data / "images").mkdir(parents=True)
        for number in range(IMAGES):
            image = np.full((SIDE, SIDE, 3), random.integers(40, 200, 3), np.uint8)
            for _ in range(3):
                x, y, size = (int(value) for value in random.integers(10, 60, 3))
                colour = [int(value) for value in random.integers(0, 256, 3)]
                cv2.rectangle(image, (x, y), (x + size, y + size), colour, -1)
            cv2.imwrite(str(self.data / "images" / f"{number}.png"), image)

    def _write_annotations(self, detector: TorchDetector) -> None:
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number in range(IMAGES):
            name = f"{number}.png"
            images.append({"id": number, "file_name": name, "width": SIDE, "height": SIDE})
            image = load_image(self.data / "images" / name)
            for box, _, label in detector([image])[0].above(0.4):
                x0, y0, x1, y1 = (float(value) for value in box)
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": self.card.category_ids[label],
                        "bbox": [x0, y0, x1 - x0, y1 - y0],
                        "area": (x1 - x0) * (y1 - y0),
                        "iscrowd": 0,
                    }
                )
        categories = [{"id": i, "name": n} for i, n in zip(self.card.category_ids, CLASSES, strict=True)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (self.data / "annotations.json").write_text(json.dumps(content))
