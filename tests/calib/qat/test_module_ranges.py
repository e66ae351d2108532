"""Ranges and float layers of an ONNX graph find their modules."""

from __future__ import annotations

from onnx import ModelProto, NodeProto, TensorProto, helper

from ssd_edge.calib.qat.module_ranges import float_layers, module_ranges


def graph_of(*nodes: NodeProto) -> ModelProto:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 1, 1])
    return helper.make_model(helper.make_graph(nodes, "graph", [value], [value]))


# The first convolution's output goes into an addition alone, what follows that into the second.
FP32 = (
    helper.make_node("Conv", ["x", "model.backbone.a.weight"], ["a"]),
    helper.make_node("Add", ["a", "x"], ["sum"]),
    helper.make_node("Conv", ["sum", "model.head.b.weight"], ["b"]),
    helper.make_node("Conv", ["b", "other"], ["c"]),
)


def test_ranges_of_an_onnx_file_find_their_layers() -> None:
    tensors = {"x": (-1.0, 1.0), "a": (0.0, 2.0), "sum": (-1.0, 3.0), "b": (0.0, 4.0), "c": (0.0, 5.0)}
    found = module_ranges(graph_of(*FP32), tensors)
    assert found == {
        "backbone.a": (-1.0, 1.0),
        "backbone.a:output": (0.0, 2.0),
        "head.b": (-1.0, 3.0),
        "head.b:output": (0.0, 4.0),
    }


def test_layers_that_an_int8_file_leaves_float() -> None:
    int8 = graph_of(
        helper.make_node("DequantizeLinear", ["a_int8", "a_scale"], ["a_float"]),
        helper.make_node("Conv", ["x", "a_float"], ["a"]),
        *FP32[1:],
    )
    assert float_layers(graph_of(*FP32), int8) == {"head.b"}
