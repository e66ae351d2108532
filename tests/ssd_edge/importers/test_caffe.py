"""Networks of Caffe detect what OpenCV 4's `dnn` detects with them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto

from ssd_edge.export.fp16.convert import half_graph
from ssd_edge.export.fp16.plan import known_types
from ssd_edge.export.trace import onnx_from_predictor
from ssd_edge.importers.caffe import COCO_CLASSES
from ssd_edge.importers.caffe_head import default_boxes_of
from ssd_edge.importers.caffe_schema import NetParameter, read_weights
from ssd_edge.importers.family import Facts
from ssd_edge.importers.labels import VOC_CLASSES
from ssd_edge.models.layer_graph import architecture_of
from ssd_edge.models.predict import Predictor
from ssd_edge.models.ssd import SSD
from ssd_edge.runtime.nms import nms
from tests.ssd_edge.importers.caffe_import import imported, opened, write
from tests.ssd_edge.importers.caffe_networks import NETWORKS, VGG_OUTPUT, fill_weights, small
from tests.ssd_edge.importers.filling import images

GOLDENS = Path(__file__).parent / "goldens"
LARGEST_DIFFERENCE = 1e-5  # of a tensor's largest magnitude


def predicted(model: SSD) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Boxes and scores of the three images."""
    with torch.inference_mode():
        outputs = [Predictor(model)(torch.from_numpy(image)[None]) for image in images(*model.config.size_hw)]
    boxes, scores = (torch.cat(values).numpy() for values in zip(*outputs, strict=True))
    return boxes, scores


def assert_same_detections(
    model: SSD, boxes: NDArray[np.float32], scores: NDArray[np.float32], expected: NDArray[np.float32]
) -> None:
    """The best of an image are DetectionOutput's rows (label, score, x0, y0, x1, y1); near scores may swap."""
    config = model.config
    found = nms(
        boxes,
        scores,
        score_threshold=config.score_threshold,
        iou_threshold=config.nms_iou,
        candidates=config.candidates,
        detections=config.detections,
    )
    assert len(found) >= len(expected)
    labels = found.labels[:, None].astype(np.float32) + 1
    rows = np.concatenate((labels, found.scores[:, None], found.boxes_xyxy), axis=1, dtype=np.float32)
    for row in expected:
        same = (np.abs(rows[:, 1] - row[1]) < 1e-5) & (rows[:, 0] == row[0])
        assert np.abs(rows[same, 2:] - row[2:]).max(axis=1).min(initial=np.inf) < 1e-4
    assert np.abs(rows[: len(expected), 1] - expected[:, 1]).max() < 1e-5


@pytest.mark.parametrize("name", NETWORKS)
def test_detects_what_opencv_detects(name: str, tmp_path: Path) -> None:
    golden = np.load(GOLDENS / f"caffe_{name}.npz")
    prototxt, caffemodel = tmp_path / "deploy.prototxt", tmp_path / "net.caffemodel"
    prototxt.write_text(NETWORKS[name](), encoding="utf-8")
    assert fill_weights(prototxt, caffemodel) == json.loads(str(golden["tensors"]))
    result = imported(caffemodel, prototxt)
    boxes, scores = predicted(result.model)
    anchors, (largest_box, largest_score) = golden["anchors"], golden["largest"]
    assert anchors[-1] == boxes.shape[1] - 1
    box_error = np.abs(boxes[:, anchors] - golden["boxes"]).max() / largest_box
    score_error = np.abs(scores[:, anchors] - golden["scores"]).max() / largest_score
    assert max(box_error, score_error) <= LARGEST_DIFFERENCE
    np.testing.assert_allclose([np.abs(boxes).max(), np.abs(scores).max()], golden["largest"], rtol=1e-4)
    for index in range(3):
        assert_same_detections(result.model, boxes[index], scores[index], golden[f"detections{index}"])


def test_weights_in_half_in_double_and_of_the_old_shape_are_the_same(tmp_path: Path) -> None:
    prototxt, caffemodel = write(tmp_path, small())
    net = NetParameter()
    net.ParseFromString(caffemodel.read_bytes())
    expected = read_weights(caffemodel)
    for layer in net.layer:
        for blob, kind in zip(layer.blobs, ("half", "double", "old"), strict=False):
            values, dims = list(blob.data), list(blob.shape.dim)
            if kind == "half":
                blob.raw_data_type, blob.raw_data = 2, np.array(values, "<f2").tobytes()
                del blob.data[:]
            elif kind == "double":
                blob.double_data.extend(values)
                del blob.data[:]
            elif len(dims) == 1:
                blob.ClearField("shape")
                blob.num = blob.channels = blob.height = 1
                blob.width = dims[0]
    caffemodel.write_bytes(net.SerializeToString())
    found = read_weights(caffemodel)
    for name, blobs in expected.items():
        for one, other in zip(blobs, found[name], strict=True):
            np.testing.assert_allclose(one.ravel(), other.ravel(), rtol=1e-3, atol=1e-6)
    opened(prototxt, caffemodel)


def test_a_background_that_is_not_the_first_column_becomes_it(tmp_path: Path) -> None:
    paths = write(tmp_path, small())
    first = predicted(imported(*paths).model)[1]
    paths[0].write_text(small(VGG_OUTPUT.replace("background_label_id: 0", "background_label_id: 2")))
    third = predicted(imported(*paths).model)[1]
    np.testing.assert_allclose(third[..., [1]], first[..., [0]], atol=1e-6)  # class 1
    np.testing.assert_allclose(third[..., [2]], first[..., [2]], atol=1e-6)  # class 3
    np.testing.assert_allclose(third[..., 0], 1 - first.sum(axis=2), atol=1e-6)  # what was the background


def test_rgb_networks_read_rgb(tmp_path: Path) -> None:
    paths = write(tmp_path, small())
    facts = Facts(mean=(120.0, 120.0, 120.0), std=(1.0, 1.0, 1.0))
    bgr = imported(*paths, facts=facts).model
    rgb = imported(*paths, facts=replace(facts, bgr=False)).model
    image = torch.from_numpy(images(96, 160)[:1])
    with torch.inference_mode():
        for one, other in zip(Predictor(bgr)(image), Predictor(rgb)(image.flip(3)), strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_normalisation_within_the_network_stays_behind_that_of_the_user(tmp_path: Path) -> None:
    """It is folded into mean and std, also with negative slopes, where the user says nothing about these."""
    paths = write(tmp_path, NETWORKS["small_scaled"]())
    folded = imported(*paths)
    kept = imported(*paths, facts=Facts(mean=(123.0, 117.0, 104.0)))
    assert folded.source.network["layers"][0]["op"] == "conv" == kept.source.network["layers"][1]["op"]
    assert folded.model.config.std != kept.model.config.std == (1.0, 1.0, 1.0)
    for one, other in zip(predicted(folded.model), predicted(kept.model), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_priors_of_several_sizes_come_in_the_order_of_caffe(tmp_path: Path) -> None:
    """prior_box_layer.cpp: for each min_size the square, that with its max_size, the ratios."""
    source = opened(*write(tmp_path, small()))
    level = source.detections.levels[0]
    for name, values in {"min_size": [16, 32], "max_size": [64, 128], "aspect_ratio": [4, 1, 0.25]}.items():
        del getattr(level.priors, name)[:]
        getattr(level.priors, name).extend(values)
    level.priors.flip = False
    boxes = default_boxes_of([level], [(12, 20)], source.graph)
    assert boxes.shapes is not None
    pixels = [(width * 160, height * 96) for width, height in boxes.shapes[0]]
    of_16 = [(16, 16), (32, 32), (32, 8), (8, 32)]
    np.testing.assert_allclose(pixels, [*of_16, (32, 32), (64, 64), (64, 16), (16, 64)])
    assert (boxes.steps, boxes.clip, boxes.offset) == (None, False, 0.5)


def test_a_transform_in_the_file_is_taken(tmp_path: Path) -> None:
    prototxt, caffemodel = write(tmp_path, small())
    with prototxt.open("a") as file:
        file.write('layer { name: "x" type: "Silence" transform_param { scale: 0.5 mean_value: [1, 2, 3] } }')
    result = imported(prototxt, caffemodel)
    assert (result.model.config.mean, result.model.config.std) == ((3, 2, 1), (2, 2, 2))
    assert result.assumptions == ()


def test_what_was_assumed_is_said(tmp_path: Path) -> None:
    result = imported(*write(tmp_path, NETWORKS["mobilenet_merged"]()))
    assert "mean 127.5, 127.5, 127.5" in result.assumptions[0]
    assert "--mean and --std changes it" in result.assumptions[0]
    assert result.class_names is None


@pytest.mark.parametrize(("columns", "names"), [(21, VOC_CLASSES), (81, COCO_CLASSES), (11, None)])
def test_class_names_follow_from_their_number(columns: int, names: tuple[str, ...] | None, tmp_path: Path) -> None:
    result = imported(*write(tmp_path, small(columns=columns)))
    assert result.class_names == names
    assert any("--classes" in text for text in result.assumptions) == (names is not None)


def test_other_classes_change_the_last_class_layers_alone(tmp_path: Path) -> None:
    result = imported(*write(tmp_path, small()))
    config = result.model.config
    assert config.network is not None
    other = architecture_of("caffe", config.network, config).make(9).state_dict()
    changed = [name for name, value in result.model.state_dict().items() if value.shape != other[name].shape]
    assert {name.rpartition(".")[0] for name in changed} == {
        f"head.classification_head.module_list.{level}" for level in range(2)
    }


def test_half_precision_keeps_default_boxes_and_norm_in_float(tmp_path: Path) -> None:
    """What is computed of constants alone, as parts of the default boxes are, and |x|² with its ε."""
    float_graph = onnx_from_predictor(Predictor(imported(*write(tmp_path, small())).model).eval(), (96, 160))
    half = half_graph(float_graph)
    types = known_types(half)
    boxes = next(name for name in types if name.endswith("default_boxes_xyxy"))
    for node in half.graph.node:
        if boxes in node.input or node.op_type in ("ReduceL2", "Sqrt", "Exp", "Softmax"):
            assert types[node.output[0]] == TensorProto.FLOAT
    lengths = {node.output[0] for node in half.graph.node if node.op_type == "ReduceL2"}
    squares = [node for node in half.graph.node if lengths & set(node.input)]
    assert [types[node.output[0]] for node in squares] == [TensorProto.FLOAT]
