"""What other projects' detectors have and ours do not reaches ONNX files of every precision."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from ssd_edge.box_coding import BoxCoding
from ssd_edge.card import SIGMOID
from ssd_edge.checkpoint import Checkpoint, save_checkpoint
from ssd_edge.cli.main import main
from ssd_edge.models.create import create_from_card, create_model
from ssd_edge.runtime.detector import open_detector
from tests.detectors.tiny_arch import WITH_NORM, write_yolo


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with shapes that are clipped at their corners, unequal variances, limits and sigmoid; and images."""
    folder = tmp_path_factory.mktemp("other")
    own = create_model(WITH_NORM, 2)
    shapes = [
        [[0.2 + 0.1 * level, 0.5 / (k + 1)] for k in range(count)]
        for level, count in enumerate(own.config.default_boxes.boxes_per_cell)
    ]
    card = replace(
        own.make_card(("cat", "dog"), (1, 2)),
        default_boxes={
            "aspect_ratios": [],
            "scales": [],
            "steps": None,
            "clip": "corners",
            "shapes": shapes,
            "offset": 0.25,
        },
        box_coding=BoxCoding((0.05, 0.2, 0.1, 0.3), min_log_scale=-0.5, max_log_scale=0.5).to_dict(),
        score_function=SIGMOID,
        clip_before_nms=False,
        iou_epsilon=1e-5,
    )
    torch.manual_seed(0)
    model = create_from_card(card)
    assert model.make_card(card.class_names, card.category_ids) == card
    for parameter in model.head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    save_checkpoint(folder / "model.pt", Checkpoint(card, model.state_dict()))
    write_yolo(folder / "data", 6, ("cat", "dog"))
    return folder


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8 cpu", "int8 tensorrt"])
def test_every_precision_decodes_alike(folder: Path, precision: str) -> None:
    name, _, target = precision.partition(" ")
    path = folder / f"{name}{target}.onnx"
    options = ["--calib", str(folder / "data"), "--images", "4", "--target", target] if target else []
    assert main(["export", str(folder / "model.pt"), "-o", str(path), "--precision", name, *options]) == 0
    graph = onnx.load(path).graph
    stored = {node.output[0] for node in graph.node if node.op_type in ("DequantizeLinear", "QuantizeLinear")}
    for node in graph.node:
        if node.op_type in ("Exp", "Sigmoid"):
            assert not stored & set(node.input)
    with open_detector(folder / "model.pt") as reference, open_detector(path) as exported:
        assert exported.card.score_function == SIGMOID
        images = np.random.default_rng(0).integers(
            0, 256, (2, reference.card.height, reference.card.width, 3), np.uint8
        )
        wanted, found = reference.infer(images), exported.infer(images)
        tolerance = {"fp32": 1e-5, "fp16": 5e-3, "int8": 0.2}[name]
        for ours, theirs in zip(found, wanted, strict=True):
            assert np.abs(ours - theirs).max() <= tolerance
        assert wanted[1].max() > 0.6
