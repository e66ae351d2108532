"""What stays float32: by its operator, its weights, its name."""

import numpy as np
import pytest
from onnx import helper

from ssd_edge.errors import ModelFileError, UsageError
from ssd_edge.export.fp16.convert import half_from_float, half_graph
from tests.export.fp16.small_ssd import (
    FLOAT,
    HALF,
    assert_close,
    build_with_tensorrt_rtx,
    images,
    node_of,
    quantised_ssd,
    small_ssd,
    types_of,
    weights_of,
)


def test_a_name_that_the_graph_does_not_have() -> None:
    with pytest.raises(UsageError, match=r"no node or tensor 'heads' to keep in float32; .* 'cast', 'planes'"):
        half_graph(small_ssd(), keep_float=["heads", "head_0"])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"w_stem": np.full((4, 3, 1, 1), 1e5)}, "w_stem reaches 1e+05, half ends at 65504"),
        ({"w_stem": np.full((4, 3, 1, 1), 1e-7)}, "w_stem is too small for half: its largest value is 1e-07"),
        ({"scale": np.full((4, 1, 1), 1e-6)}, "scale is too small"),
    ],
)
def test_weights_that_half_cannot_hold_keep_their_node_in_float32(weights: dict[str, np.ndarray], message: str) -> None:
    model = small_ssd(**weights)
    node = "stem" if "w_stem" in weights else "scaled"
    half, report = half_from_float(model, images())
    assert report.kept_float[node].startswith(message)
    assert f"kept in float32: {node}: {message}" in str(report)
    assert types_of(half)[node] == FLOAT
    assert_close(model, half)


def test_small_weights_among_large_ones_do_no_harm() -> None:
    weights = np.random.default_rng(2).normal(0, 1, (4, 3, 1, 1))
    weights[0] = 1e-8
    assert types_of(half_graph(small_ssd(w_stem=weights)))["stem"] == HALF


def test_constants_in_nodes_are_weights_too() -> None:
    model = small_ssd()
    (bias,) = [tensor for tensor in model.graph.initializer if tensor.name == "b_stem"]
    model.graph.node.insert(0, helper.make_node("Constant", [], ["b_stem"], value=bias))
    model.graph.initializer.remove(bias)
    half = half_graph(model)
    assert weights_of(half)["b_stem_half"].dtype == np.float16
    assert_close(model, half)


def test_an_operator_that_is_not_known_to_suit_half_stays_float32() -> None:
    model = small_ssd()
    node_of(model, "map").op_type = "Softplus"
    half = half_graph(model)
    assert types_of(half)["map"] == FLOAT
    assert_close(model, half)


def test_control_flow_and_unknown_operators_are_refused() -> None:
    model = small_ssd()
    inner = helper.make_graph(
        [helper.make_node("Identity", ["map"], ["o"])], "g", [], [helper.make_tensor_value_info("o", FLOAT, None)]
    )
    model.graph.node.append(helper.make_node("If", ["c"], ["p"], name="choice", then_branch=inner, else_branch=inner))
    with pytest.raises(ModelFileError, match="choice holds a graph of its own"):
        half_graph(model)
    model = small_ssd()
    model.graph.node.append(helper.make_node("Own", ["map"], ["p"], domain="mine"))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    with pytest.raises(ModelFileError, match="type of 'p' is not known: Own"):
        half_graph(model)


def test_scales_that_half_cannot_hold_keep_the_layer_in_float32() -> None:
    model = quantised_ssd(weight_scale=[1e-6] * 4)
    half, report = half_from_float(model, images())
    assert report.kept_float == {"stem": "s_w is too small for half: its largest value is 1e-06"}
    assert types_of(half)["stem"] == FLOAT
    assert weights_of(half)["s_w"].dtype == np.float32
    assert build_with_tensorrt_rtx(half) == []
