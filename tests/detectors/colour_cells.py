"""A tiny model that obeys the ONNX contract and whose detections can be told by eye."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ssd_edge.card import ModelCard

if TYPE_CHECKING:
    import onnx

SIZE, CELL = 32, 8
ANCHORS = (SIZE // CELL) ** 2
UINT8 = 2  # onnx.TensorProto.UINT8

COLOUR_CARD = ModelCard(
    arch="colour_cells",
    height=SIZE,
    width=SIZE,
    class_names=("red", "green", "blue"),
    category_ids=(1, 2, 4),
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    score_threshold=0.5,
    nms_iou=0.5,
    candidates=10,
    detections=10,
)


def colour_model(
    metadata: dict[str, str],
    *,
    batch: int | str = "batch",
    image_type: int = UINT8,
    input_name: str = "images",
    output_name: str = "scores",
    broken_boxes: bool = False,
) -> onnx.ModelProto:
    """Anchors are the 4×4 cells of 8×8 pixels; a class's score is its channel's mean in the cell / 255."""
    import onnx  # not at the top: the GPU's tests need this file and run without onnx
    from onnx import TensorProto, helper, numpy_helper

    low = np.arange(SIZE // CELL, dtype=np.float32) * CELL / SIZE
    x0, y0 = np.meshgrid(low, low)  # each [4, 4], row by row as the pooling is
    corners = np.stack([x0, y0, x0 + CELL / SIZE, y0 + CELL / SIZE], -1).reshape(1, ANCHORS, 4)
    anchors = ANCHORS // 2 if broken_boxes else ANCHORS
    constants = {
        "corners": corners[:, :anchors].astype(np.float32),
        "box_tail": np.array([anchors, 4], np.int64),
        "score_shape": np.array([0, 3, ANCHORS], np.int64),
        "full": np.array(255, np.float32),
    }
    nodes = [
        helper.make_node("Cast", [input_name], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["means"], kernel_shape=[CELL, CELL], strides=[CELL, CELL]),
        helper.make_node("Div", ["means", "full"], ["shares"]),
        helper.make_node("Reshape", ["shares", "score_shape"], ["columns"]),
        helper.make_node("Transpose", ["columns"], [output_name], perm=[0, 2, 1]),
        helper.make_node("Shape", [input_name], ["batch_size"], start=0, end=1),
        helper.make_node("Concat", ["batch_size", "box_tail"], ["box_shape"], axis=0),
        helper.make_node("Expand", ["corners", "box_shape"], ["boxes"]),
    ]
    graph = helper.make_graph(
        nodes,
        "colour_cells",
        [helper.make_tensor_value_info(input_name, image_type, [batch, SIZE, SIZE, 3])],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [batch, anchors, 4]),
            helper.make_tensor_value_info(output_name, TensorProto.FLOAT, [batch, ANCHORS, 3]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    # Versions that old releases of ONNX Runtime read too.
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    return model
