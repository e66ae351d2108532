"""ONNX models, also such as the onnx package would not write."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT
Write = Callable[[onnx.ModelProto | bytes], Path]


def make_model(
    *,
    nodes: list[onnx.NodeProto] | None = None,
    initializers: list[TensorProto] | None = None,
    shape: list[int | str] | None = None,
) -> onnx.ModelProto:
    """y = x + w, or what `nodes` make of x."""
    graph = helper.make_graph(
        nodes or [helper.make_node("Add", ["x", "w"], ["y"])],
        "adds",
        [helper.make_tensor_value_info("x", FLOAT, shape or ["batch", 2])],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [numpy_helper.from_array(np.array([1, 2], np.float32), "w")] if initializers is None else initializers,
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)])


def external_tensor(name: str = "w", location: str | None = "weights.bin") -> TensorProto:
    tensor = TensorProto(name=name, dims=[2], data_type=FLOAT, data_location=TensorProto.EXTERNAL)
    if location is not None:
        tensor.external_data.add(key="location", value=location)
    return tensor


def if_node(inner: onnx.GraphProto) -> onnx.NodeProto:
    return helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)


def inner_graph(tensor: TensorProto) -> onnx.GraphProto:
    return helper.make_graph([helper.make_node("Identity", ["w"], ["o"])], "inner", [], [], [tensor])


def sparse(**parts: TensorProto) -> onnx.SparseTensorProto:
    good = {
        "values": numpy_helper.from_array(np.ones(1, np.float32), "v"),
        "indices": numpy_helper.from_array(np.zeros(1, np.int64), "i"),
    }
    return onnx.SparseTensorProto(dims=[4], **(good | parts))


TYPED = [
    helper.make_tensor("t", TensorProto.FLOAT, [2, 3], range(6)),
    helper.make_tensor("t", TensorProto.FLOAT, [], [1]),
    helper.make_tensor("t", TensorProto.FLOAT, [0, 3], []),
    helper.make_tensor("t", TensorProto.INT64, [3], [-1, 0, 1 << 62]),
    helper.make_tensor("t", TensorProto.INT32, [2], [-1, 300]),
    helper.make_tensor("t", TensorProto.INT8, [2], [-1, 3]),
    helper.make_tensor("t", TensorProto.UINT64, [2], [1, 1 << 63]),
    helper.make_tensor("t", TensorProto.DOUBLE, [1], [0.5]),
    helper.make_tensor("t", TensorProto.FLOAT16, [2], [0.5, 1]),
    helper.make_tensor("t", TensorProto.BOOL, [2], [True, False]),
    helper.make_tensor("t", TensorProto.STRING, [2], [b"a", b""]),
    helper.make_tensor("t", TensorProto.COMPLEX64, [1], [1 + 2j]),
    helper.make_tensor("t", TensorProto.INT4, [3], [1, -2, 3]),
    numpy_helper.from_array(np.zeros((2, 2), np.float16), "t"),
]


def with_initializer(tensor: bytes) -> bytes:
    """The bytes of a model with an initializer that the onnx package would not write."""
    graph: bytes = make_model(initializers=[]).graph.SerializeToString()
    graph += bytes([5 << 3 | 2]) + varint(len(tensor)) + tensor
    model = make_model()
    model.ClearField("graph")
    whole: bytes = model.SerializeToString()
    return whole + bytes([7 << 3 | 2]) + varint(len(graph)) + graph


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def small_but_full() -> bytes:
    """A model with something of everything."""
    model = make_model(nodes=[if_node(inner_graph(numpy_helper.from_array(np.ones(2, np.float32), "w")))])
    model.graph.sparse_initializer.append(sparse())
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=TYPED[3], doc_string="a node"))
    model.graph.initializer.append(helper.make_tensor("n", TensorProto.INT64, [2], [3, 4]))
    model.graph.node.append(helper.make_node("ConstantOfShape", ["n"], ["d"]))
    model.graph.value_info.append(helper.make_tensor_sequence_value_info("s", FLOAT, [1]))
    model.functions.append(helper.make_function("d", "F", ["a"], ["o"], [helper.make_node("Relu", ["a"], ["o"])], []))
    helper.set_model_props(model, {"key": "value"})
    whole: bytes = model.SerializeToString()
    return whole
