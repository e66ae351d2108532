"""Changes of a detector's ONNX graph, each of which breaks or rounds something known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ssd_edge.parity.taps_onnx import offsets_name

Change = Callable[[onnx.ModelProto], None]


def node_of(model: onnx.ModelProto, op_type: str) -> onnx.NodeProto:
    (node,) = [node for node in model.graph.node if node.op_type == op_type]
    return node


def set_initializer(model: onnx.ModelProto, name: str, value: NDArray[Any]) -> None:
    (held,) = [tensor for tensor in model.graph.initializer if tensor.name == name]
    held.CopyFrom(numpy_helper.from_array(value.astype(numpy_helper.to_array(held).dtype), name))


def weight(model: onnx.ModelProto, part: str) -> tuple[str, NDArray[Any]]:
    """The first initializer whose name holds `part`."""
    held = next(tensor for tensor in model.graph.initializer if part in tensor.name)
    return held.name, numpy_helper.to_array(held).copy()


def insert(model: onnx.ModelProto, tensor: str, *nodes: tuple[str, dict[str, Any]], **constants: NDArray[Any]) -> None:
    """Put nodes, one after the other, between a tensor and all that take it; constants are the further inputs."""
    graph = model.graph
    makers = [place for place, node in enumerate(graph.node) if tensor in node.output]
    place = makers[0] + 1
    for node in graph.node[place:]:
        node.input[:] = [f"{tensor}_after" if name == tensor else name for name in node.input]
    if tensor in {output.name for output in graph.output}:
        maker = graph.node[makers[0]]
        maker.output[:] = [f"{tensor}_before" if name == tensor else name for name in maker.output]
        source, final = f"{tensor}_before", tensor
    else:
        source, final = tensor, f"{tensor}_after"
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    for index, (op_type, attributes) in enumerate(nodes):
        result = final if index == len(nodes) - 1 else f"{tensor}_{index}"
        extra = list(constants) if op_type in ("Gather", "QuantizeLinear", "DequantizeLinear", "Mul", "Add") else []
        graph.node.insert(place + index, helper.make_node(op_type, [source, *extra], [result], **attributes))
        source = result


def wrong_mean(model: onnx.ModelProto) -> None:
    subtract = next(node for node in model.graph.node if node.op_type == "Sub" and "mean" in node.input[1])
    subtract.input[1] = "another_mean"
    model.graph.initializer.append(
        numpy_helper.from_array(np.array([[[90]], [[100]], [[110]]], np.float32), "another_mean")
    )


def swapped_columns(model: onnx.ModelProto) -> None:
    insert(model, "boxes", ("Gather", {"axis": 2}), order=np.array([1, 0, 3, 2]))


def swapped_offsets(model: onnx.ModelProto) -> None:
    name = offsets_name(model.graph)
    assert name is not None
    insert(model, name, ("Gather", {"axis": 2}), order=np.array([1, 0, 3, 2]))


def softmax_over_anchors(model: onnx.ModelProto) -> None:
    node_of(model, "Softmax").attribute[0].i = 1


def noisy_weights(part: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        name, values = weight(model, part)
        noise = np.random.default_rng(0).normal(0, values.std(), values.shape)
        set_initializer(model, name, values + 0.5 * noise)

    return change


def wrong_default_boxes(model: onnx.ModelProto, by: float = 0.05) -> None:
    """The centres of all default boxes, a constant [anchors, 2] of the decoding, moved to the lower right."""
    insert_after = next(
        tensor for tensor in model.graph.initializer if list(tensor.dims)[-1:] == [2] and tensor.name.startswith("add")
    )
    set_initializer(model, insert_after.name, numpy_helper.to_array(insert_after) + by)
