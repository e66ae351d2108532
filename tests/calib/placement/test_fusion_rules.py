"""The checker of fusion rules fails where it should; where a residual sum stays float."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from ssd_edge.calib.placement.graph import Graph
from ssd_edge.calib.placement.qdq import Storage, insert_pairs, store_constant, symmetric_weights
from ssd_edge.calib.placement.tensorrt import place_for_tensorrt
from tests.calib.placement.fusion_rules import broken_rules
from tests.calib.placement.small_graphs import make_model, node

RANDOM = np.random.default_rng(0)
STORAGE = Storage(0.05, np.int8(0))


def weights(*shape: int) -> np.ndarray:
    return RANDOM.normal(0, 0.3, shape).astype(np.float32)


def block() -> onnx.ModelProto:
    """A residual block with an identity shortcut between two convolutions."""
    nodes = [
        node("Conv", "x w0 b", "c0"),
        node("Relu", "c0", "r0"),
        node("Conv", "r0 w1", "c1"),
        node("Relu", "c1", "r1"),
        node("Conv", "r1 w2", "c2"),
        node("Add", "c2 r0", "sum"),
        node("Relu", "sum", "r2"),
        node("MaxPool", "r2", "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", "p depthwise", "d", group=8),
        node("Conv", "p w3", "c3"),
        node("Mul", "c3 d", "y"),
    ]
    constants = {f"w{i}": weights(8, 8, 1, 1) for i in range(4)}
    constants |= {"b": weights(8), "depthwise": weights(8, 1, 1, 1)}
    return make_model(nodes, {"x": ["batch", 8, 8, 8]}, {"y": ["batch", 8, 4, 4]}, constants)


def placed() -> onnx.ModelProto:
    return place_for_tensorrt(block(), lambda _: (-6.0, 6.0))


def by_hand(tensors: str, readers: str, integer: str = "c0 c1 c2 c3") -> onnx.ModelProto:
    """Pairs on these tensors where these nodes read them, int8 weights in these convolutions."""
    graph = Graph(block())
    for made in graph.nodes:
        if made.name in integer.split():
            stored, scales = symmetric_weights(graph.floats(made.input[1]), 127)
            made.input[1] = store_constant(graph, made.input[1], stored, scales)
    chosen = [made for made in graph.nodes if made.name in readers.split()]
    insert_pairs(graph, dict.fromkeys(tensors.split(), STORAGE), readers=chosen)
    return graph.finish()


def test_the_placement_breaks_no_rule() -> None:
    assert broken_rules(placed()) == {}
    assert broken_rules(by_hand("x r0 r1 p", "c0 c1 c2 sum c3")) == {}  # what it comes to, written by hand


@pytest.mark.parametrize(
    ("tensors", "readers", "integer", "broken"),
    [
        # both inputs of the sum: where this project placed pairs before
        ("x r0 r1 c2 p", "c0 c1 c2 sum c3", "c0 c1 c2 c3", {"pair_on_branch": "sum", "pair_without_int8_reader": "c2"}),
        # the branch alone, the residual float
        ("x r1 c2 p", "c0 c2 sum c3", "c0 c2 c3", {"pair_on_branch": "sum", "pair_without_int8_reader": "c2"}),
        # neither, and then Q behind the sum
        ("x r0 r1 p", "c0 c1 c2 c3", "c0 c1 c2 c3", {"float_residual": "sum"}),
        # the residual, but the branch's convolution is float
        ("x r0 r1 p", "c0 c1 sum c3", "c0 c1 c3", {"pair_on_branch": "sum"}),
        # between a convolution and its ReLU
        (
            "x r0 r1 p c1",
            "c0 c1 c2 sum c3 r1",
            "c0 c1 c2 c3",
            {"pair_before_activation": "r1", "pair_without_int8_reader": "c1"},
        ),
        # a depthwise convolution reads int8, with and without int8 weights
        (
            "x r0 r1 p",
            "c0 c1 c2 sum c3 d",
            "c0 c1 c2 c3",
            {"inputs_of_convolutions": "d", "depthwise_in_int8": "d"},
        ),
        ("x r0 r1 p", "c0 c1 c2 sum c3 d", "c0 c1 c2 c3 d", {"depthwise_in_int8": "d"}),
        # int8 data without int8 weights
        (
            "x r0 r1 p",
            "c0 c1 c2 sum c3",
            "c0 c1 c2",
            {"inputs_of_convolutions": "c3", "pair_without_int8_reader": "p"},
        ),
    ],
)
def test_pairs_in_the_wrong_place_are_found(tensors: str, readers: str, integer: str, broken: dict[str, str]) -> None:
    found = broken_rules(by_hand(tensors, readers, integer))
    assert {rule: " ".join(nodes).replace("_quantized", "") for rule, nodes in found.items()} == broken


def set_constant(model: onnx.ModelProto, name: str, value: np.ndarray) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(value, name))


@pytest.mark.parametrize(
    ("constant", "value", "broken"),
    [
        ("x_zero_point", np.array(3, np.int8), "asymmetric_or_wrong_scales"),
        ("x_zero_point", np.array(0, np.uint8), "asymmetric_or_wrong_scales"),
        ("x_scale", np.array(-0.05, np.float32), "asymmetric_or_wrong_scales"),
        ("w1_scale", np.array(0.05, np.float32), "asymmetric_or_wrong_scales"),  # one for all channels
        ("p_scale", np.array(0.06, np.float32), "scales_around_pooling"),
    ],
)
def test_wrong_scales_are_found(constant: str, value: np.ndarray, broken: str) -> None:
    model = by_hand("x r0 r1 r2 p", "c0 c1 c2 sum p c3")
    assert broken_rules(model).keys() == {"pair_without_int8_reader"}  # the one that pooling reads
    set_constant(model, constant, value)
    assert broken_rules(model).keys() == {"pair_without_int8_reader", broken}


def test_a_quantised_bias_is_found() -> None:
    model = placed()
    first = next(made for made in model.graph.node if made.op_type == "Conv" and len(made.input) > 2)
    model.graph.node.insert(0, node("Identity", "b", "made"))
    first.input[2] = "made"
    assert broken_rules(model) == {"quantised_bias": ["c0"]}


# Residual sums: which input is the branch


def stored_tensors(model: onnx.ModelProto) -> set[str]:
    return {made.input[0] for made in model.graph.node if made.op_type == "QuantizeLinear"}


def test_where_the_branch_stays_float_so_does_the_residual() -> None:
    model = place_for_tensorrt(block(), lambda _: (-6.0, 6.0), keep_float=["c2"])
    assert stored_tensors(model) == {"x", "r0", "p"}
    assert list(next(made for made in model.graph.node if made.op_type == "Add").input) == ["c2", "r0"]
    assert broken_rules(model) == {}


def test_where_no_int8_layer_reads_the_sum_the_residual_stays_float() -> None:
    model = place_for_tensorrt(block(), lambda _: (-6.0, 6.0), keep_float=["c3"])
    assert stored_tensors(model) == {"x", "r0", "r1"}
    assert list(next(made for made in model.graph.node if made.op_type == "Add").input) == ["c2", "r0"]
    assert broken_rules(model) == {}
