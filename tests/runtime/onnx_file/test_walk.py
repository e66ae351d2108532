"""Sizes and depths that no detector has, and small operators that make large tensors."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from ssd_edge.errors import ModelFileError
from ssd_edge.runtime.onnx_file.check import check_onnx_file
from tests.runtime.onnx_file.models import Write, if_node, make_model, varint


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (["batch", 8193, 8193, 3], "input x: float .*8193.*; expected sizes up to 8192"),
        (["batch", -1], r"'x' has the shape \[-1\]"),
        ([8192, 8192, 8192], "'x' is float .*at most 2 GiB"),
    ],
)
def test_absurd_input_sizes(write: Write, shape: list[int | str], message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        check_onnx_file(write(make_model(shape=shape)))


@pytest.mark.parametrize("op_type", ["ConstantOfShape", "Expand", "Tile"])
@pytest.mark.parametrize("raw", [True, False])
def test_a_small_operator_that_makes_a_huge_tensor(write: Write, op_type: str, raw: bool) -> None:
    sizes = np.array([1 << 20, 1 << 20], np.int64)
    inputs = ["n"] if op_type == "ConstantOfShape" else ["x", "n"]
    tensor = numpy_helper.from_array(sizes, "n") if raw else helper.make_tensor("n", TensorProto.INT64, [2], sizes)
    model = make_model(nodes=[helper.make_node(op_type, inputs, ["y"], name="big")], initializers=[tensor])
    with pytest.raises(ModelFileError, match=f"{op_type} 'big' makes a tensor of .*at most 2 GiB"):
        check_onnx_file(write(model))


@pytest.mark.parametrize("op_type", ["ConstantOfShape", "Expand", "Tile", "Range"])
def test_a_size_hidden_in_a_constant_node(write: Write, op_type: str) -> None:
    for hidden in ({"value": helper.make_tensor("", TensorProto.INT64, [2], [1 << 20] * 2)}, {"value_ints": [1 << 30]}):
        inputs = {"ConstantOfShape": ["n"], "Range": ["x", "n", "x"]}.get(op_type, ["x", "n"])
        nodes = [
            helper.make_node("Constant", [], ["n"], **hidden),
            helper.make_node(op_type, inputs, ["y"], name="big"),
        ]
        with pytest.raises(ModelFileError, match=f"{op_type} 'big' makes a tensor whose size is in a Constant node"):
            check_onnx_file(write(make_model(nodes=nodes)))


def test_graphs_inside_graphs_end_somewhere(write: Write) -> None:
    graph = helper.make_graph([], "deepest", [], [])
    for _ in range(30):
        graph = helper.make_graph(
            [if_node(graph)] if graph.name == "deepest" else [helper.make_node("If", ["x"], ["y"], then_branch=graph)],
            "g",
            [],
            [],
        )
    model = make_model(nodes=[helper.make_node("If", ["x"], ["y"], then_branch=graph)])
    with pytest.raises(ModelFileError, match="60 messages deep"):
        check_onnx_file(write(model))


def test_types_inside_types_end_somewhere(write: Write) -> None:
    inner = b""
    for _ in range(500):  # TypeProto.sequence_type.elem_type; the onnx package cannot write as many
        inner = bytes([1 << 3 | 2]) + varint(len(inner)) + inner
        inner = bytes([4 << 3 | 2]) + varint(len(inner)) + inner
    value = b"\x0a\x01s" + bytes([2 << 3 | 2]) + varint(len(inner)) + inner
    graph = make_model().graph.SerializeToString() + bytes([13 << 3 | 2]) + varint(len(value)) + value
    model = make_model()
    model.ClearField("graph")
    with pytest.raises(ModelFileError, match="60 messages deep"):
        check_onnx_file(write(model.SerializeToString() + bytes([7 << 3 | 2]) + varint(len(graph)) + graph))
