"""The graph as it is written: half tensors, one Cast where types meet, scales in the type of their data."""

import numpy as np
import onnx

from ssd_edge.export.fp16.convert import half_graph
from tests.export.fp16.small_ssd import (
    CASTS,
    FLOAT,
    HALF,
    IN_FLOAT,
    IN_HALF,
    assert_close,
    build_with_tensorrt_rtx,
    casts_of,
    node_of,
    quantised_ssd,
    small_ssd,
    types_of,
    weights_of,
)


def test_weights_and_activations_are_half_and_what_sums_or_exponentiates_is_not() -> None:
    model = small_ssd()
    half = half_graph(model)
    types = types_of(half)
    assert {name for name, kind in types.items() if kind == HALF} == IN_HALF | {
        new for _, new, kind in CASTS if kind == HALF
    }
    assert {name for name in IN_FLOAT if types[name] == FLOAT} == IN_FLOAT
    assert casts_of(half) == CASTS
    weights = weights_of(half)
    assert {name for name, value in weights.items() if value.dtype == np.float16} == {
        f"{name}_half" for name in ("w_stem", "b_stem", "w_head", "scale")
    }
    np.testing.assert_array_equal(weights["w_head_half"], weights_of(model)["w_head"].astype(np.float16))
    assert "w_head" not in weights  # no weight is there twice
    assert build_with_tensorrt_rtx(half) == []


def test_the_contract_stays() -> None:
    model = small_ssd()
    before = model.SerializeToString()
    half = half_graph(model)
    assert model.SerializeToString() == before
    onnx.checker.check_model(half, full_check=True)
    assert (half.ir_version, half.opset_import[0].version) == (8, 18)
    assert list(half.graph.input) == list(model.graph.input)
    assert list(half.graph.output) == list(model.graph.output)
    assert [node.op_type for node in half.graph.node if "images" in node.input] == ["Cast"]
    assert {info.name: info.type.tensor_type.elem_type for info in half.graph.value_info}.items() <= types_of(
        half
    ).items()


def test_nodes_can_be_given_back_by_their_names_or_their_tensors() -> None:
    half = half_graph(small_ssd(), keep_float=["stem", "head_0"])
    types = types_of(half)
    assert {name for name in IN_HALF if types[name] == FLOAT} == {"stem", "head_0"}
    assert {("stem", "stem_half", HALF), ("excited", "excited_float", FLOAT)} <= casts_of(half)
    weights = weights_of(half)
    assert weights["w_head"].dtype == np.float32  # of head_0
    assert weights["w_head_half"].dtype == np.float16  # of head_1
    assert_close(small_ssd(), half)
    by_tensor = types_of(half_graph(small_ssd(), keep_float=["map"]))  # what the node `relu` makes
    assert {name for name in IN_HALF if by_tensor[name] == FLOAT} == {"map"}


def test_scales_have_the_type_of_their_data() -> None:
    model = quantised_ssd()
    half = half_graph(model)
    onnx.checker.check_model(half, full_check=True)
    assert half.opset_import[0].version == 19  # the first whose Q/DQ take half
    weights, types = weights_of(half), types_of(half)
    scales = {n.name: weights[n.input[1]].dtype for n in half.graph.node if n.op_type.endswith("izeLinear")}
    assert scales == {
        "x_q": np.float32,  # the image before the network is float32
        "x_dq": np.float16,
        "w_dq": np.float16,
        "map_q": np.float16,
        "map_dq": np.float16,
        "map_dq_float": np.float32,  # for the mean and the norm
    }
    assert types["stem"] == HALF
    assert list(node_of(half, "stem").input) == ["x_dq", "w_dq", "b_stem_half"]  # no Cast between
    assert weights["q_w"].dtype == np.int8
    assert_close(model, half, atol=0.05)  # a rounding may fall to the next of 255 steps
    assert build_with_tensorrt_rtx(half) == []


def test_a_channel_without_weights_does_no_harm() -> None:
    model = quantised_ssd(weight_scale=[0.01, 1e-9, 0.02, 0.01])
    half = half_graph(model)
    assert types_of(half)["stem"] == HALF
    assert (weights_of(half)["s_w_half"] > 0).all()  # TensorRT takes no scale of 0
    assert_close(model, half, atol=0.05)
    assert build_with_tensorrt_rtx(half) == []


def test_a_graph_whose_quantised_parts_stay_float32_keeps_its_opset() -> None:
    model = quantised_ssd()
    names = [n.name for n in model.graph.node if n.op_type not in ("QuantizeLinear", "DequantizeLinear")]
    same = half_graph(model, keep_float=names)
    assert same.opset_import[0].version == 18
    assert HALF not in types_of(same).values()
