"""A detector's graph in miniature, whose activations can be worked out by hand, and images of one colour."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 8  # of the graph's input


def make_miniature(scale: float = 1.0) -> onnx.ModelProto:
    """normal = colour / 255; features = relu(scale · [R − G, B]); logits = [features 0, −2 · features 1]."""
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Div", ["planes", "std"], ["normal"]),
        helper.make_node("Conv", ["normal", "weight"], ["conv"], name="first"),
        helper.make_node("Relu", ["conv"], ["features"], name="second"),
        helper.make_node("Conv", ["features", "head"], ["head_out"], name="head"),
        helper.make_node("Reshape", ["head_out", "shape"], ["logits"]),
        helper.make_node("Mul", ["anchors", "std"], ["constant"]),
        helper.make_node("Exp", ["logits"], ["boxes"]),
        helper.make_node("Softmax", ["logits"], ["scores"]),
    ]
    weights = {
        "std": np.array([255], np.float32),
        "weight": np.array([[scale, -scale, 0], [0, 0, scale]], np.float32).reshape(2, 3, 1, 1),
        "head": np.array([[1, 0], [0, -2]], np.float32).reshape(2, 2, 1, 1),
        "shape": np.array([0, 2, SIDE * SIDE]),
        "anchors": np.ones(4, np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "miniature",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("boxes", "scores")],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def write_colours(folder: Path, colours: Sequence[tuple[int, int, int]]) -> list[Path]:
    """Images of one colour each, given as (red, green, blue)."""
    paths = []
    for number, (red, green, blue) in enumerate(colours):
        paths.append(folder / f"colour{number}.png")
        cv2.imwrite(str(paths[-1]), np.full((20, 30, 3), (blue, green, red), np.uint8))
    return paths
