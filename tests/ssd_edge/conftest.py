"""A model whose detections are fixed, and a dataset to score it on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from ssd_edge.card import ONNX_METADATA_KEY, ModelCard

if TYPE_CHECKING:
    import onnx

SIDE = 64  # of the model's input and of the images
CLASSES = ("qr_code", "aztec")
FIXED_CARD = ModelCard(
    arch="fixed",
    height=SIDE,
    width=SIDE,
    class_names=CLASSES,
    category_ids=(1, 3),
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    score_threshold=0.1,
    nms_iou=0.5,
    candidates=10,
    detections=10,
)
# x0 y0 x1 y1 as fractions of the image; one box of each class
TRUE_BOXES = ((0.125, 0.125, 0.75, 0.75), (0.25, 0.5, 1.0, 1.0))


@pytest.fixture
def fixed_model(tmp_path: Path) -> Callable[..., Path]:
    """Write an ONNX file that finds the boxes `found`, one per class, in every image; keywords change its card."""
    onnx = pytest.importorskip("onnx")

    def write(name: str = "fixed.onnx", found: Sequence[Sequence[float]] = TRUE_BOXES, **card: Any) -> Path:
        card_of_file = replace(FIXED_CARD, **card)
        scores = 0.9 * np.eye(len(found), len(card_of_file.class_names), dtype=np.float32)
        path = tmp_path / name
        onnx.save(_fixed_graph(np.array(found, np.float32), scores, card_of_file), path)
        return path

    return write


def _fixed_graph(boxes: np.ndarray, scores: np.ndarray, card: ModelCard) -> onnx.ModelProto:
    """Constants [anchors, 4] and [anchors, classes], repeated for each image of the batch."""
    from onnx import TensorProto, helper, numpy_helper  # not at the top: `pytest -m gpu` loads this file without onnx

    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["float", "axes"], ["sum"], keepdims=0),  # [batch]
        helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
        helper.make_node("Reshape", ["nothing", "shape"], ["column"]),  # [batch, 1, 1]
        helper.make_node("Add", ["column", "fixed_boxes"], ["boxes"]),
        helper.make_node("Add", ["column", "fixed_scores"], ["scores"]),
    ]
    constants = {
        "axes": np.array([1, 2, 3]),
        "zero": np.zeros(1, np.float32),
        "shape": np.array([-1, 1, 1]),
        "fixed_boxes": boxes,
        "fixed_scores": scores,
    }
    image_shape = ["batch", card.height, card.width, 3]
    graph = helper.make_graph(
        nodes,
        "fixed",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, image_shape)],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["batch", *boxes.shape]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", *scores.shape]),
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(model, {ONNX_METADATA_KEY: card.to_json()})
    return model


@pytest.fixture
def fixed_dataset(tmp_path: Path) -> Path:
    """A COCO dataset of two images, whose boxes are `TRUE_BOXES`."""
    folder = tmp_path / "dataset"
    (folder / "images").mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id in (1, 2):
        cv2.imwrite(str(folder / "images" / f"{image_id}.png"), np.full((SIDE, SIDE, 3), 90, np.uint8))
        images.append({"id": image_id, "file_name": f"{image_id}.png", "width": SIDE, "height": SIDE})
        for category_id, box in zip((1, 3), TRUE_BOXES, strict=True):
            x0, y0, x1, y1 = (SIDE * value for value in box)
            bbox = [x0, y0, x1 - x0, y1 - y0]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category_id,
                    "bbox": bbox,
                    "area": bbox[2] * bbox[3],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i, "name": name} for i, name in zip((1, 3), CLASSES, strict=True)]
    text = json.dumps({"images": images, "annotations": annotations, "categories": categories})
    (folder / "annotations.json").write_text(text)
    return folder
