"""What is read from a graph: the network's own float tensors, and the first layer that fails."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from ssd_edge.calib.activations import ActivationRunner, activation_tensors, check_tensors, first_non_finite
from ssd_edge.errors import ModelFileError
from tests.calib.miniature import SIDE, make_miniature

SIZE = (SIDE, SIDE)
NETWORK = ["float", "planes", "normal", "conv", "features", "head_out", "logits"]


def weight(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def spoil(model: onnx.ModelProto, name: str, value: float) -> None:
    """Set a weight's first number."""
    array = numpy_helper.to_array(weight(model, name)).copy()
    array.flat[0] = value
    weight(model, name).CopyFrom(numpy_helper.from_array(array, name))


def test_the_tensors_are_the_networks_without_decoding_and_constants() -> None:
    assert activation_tensors(make_miniature()) == NETWORK


def test_declared_types_are_taken_where_there_are_any() -> None:
    assert activation_tensors(onnx.shape_inference.infer_shapes(make_miniature())) == NETWORK


def test_asked_tensors_come_in_graph_order() -> None:
    assert check_tensors(make_miniature(), {"scores", "logits", "normal"}) == ["normal", "logits", "scores"]


@pytest.mark.parametrize("name", ["weight", "images", "constant", "missing"])
def test_what_is_no_activation_is_refused(name: str) -> None:
    with pytest.raises(ModelFileError, match=f"1 tensors .* no float activations .* such as '{name}'"):
        check_tensors(make_miniature(), ["conv", name])


def test_hand_checked_activations() -> None:
    model = make_miniature(scale=2)
    before = model.SerializeToString()
    runner = ActivationRunner(model, NETWORK, SIZE, threads=1)
    found = dict(runner.run(np.full((SIDE, SIDE, 3), (51, 102, 255), np.uint8)))
    assert list(found) == NETWORK
    assert {name: values.shape[1] for name, values in found.items() if name != "float"} == {
        "planes": 3, "normal": 3, "conv": 2, "features": 2, "head_out": 2, "logits": 2
    }  # fmt: skip
    np.testing.assert_allclose(found["normal"][0, :, 0, 0], [0.2, 0.4, 1], atol=1e-6)
    np.testing.assert_allclose(found["conv"][0, :, 3, 5], [-0.4, 2], atol=1e-6)  # before the ReLU, though it is fused
    np.testing.assert_allclose(found["features"][0, :, 3, 5], [0, 2], atol=1e-6)
    np.testing.assert_allclose(found["logits"][0, :, 9], [0, -4], atol=1e-6)
    assert model.SerializeToString() == before


def test_a_nan_weight_is_named_with_its_layer() -> None:
    model = make_miniature()
    spoil(model, "head", np.nan)
    layer = first_non_finite(model, np.full((SIDE, SIDE, 3), 80, np.uint8), threads=1)
    assert layer is not None
    assert str(layer) == "Conv 'head' (tensor 'head_out') gives NaN; its weight head is not finite"


def test_an_overflow_is_named_where_it_begins() -> None:
    model = make_miniature(scale=1e38)
    spoil(model, "head", 1e38)
    layer = first_non_finite(model, np.full((SIDE, SIDE, 3), (255, 0, 0), np.uint8), threads=1)
    assert layer is not None
    assert (layer.tensor, layer.value, layer.weight) == ("head_out", "infinity", None)


def test_there_may_be_nothing_to_name() -> None:
    assert first_non_finite(make_miniature(), np.zeros((SIDE, SIDE, 3), np.uint8), threads=1) is None


def test_a_graph_of_another_size_is_refused() -> None:
    with pytest.raises(ModelFileError, match=r"takes UINT8 \['batch', 8, 8, 3\]; expected .*\[batch, 300, 300, 3\]"):
        ActivationRunner(make_miniature(), NETWORK, (300, 300))


def test_a_graph_with_another_input_is_refused() -> None:
    model = make_miniature()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    with pytest.raises(ModelFileError, match=r"takes FLOAT .*; expected one UINT8 input"):
        ActivationRunner(model, NETWORK, SIZE)
    del model.graph.input[:]
    with pytest.raises(ModelFileError, match="takes no input"):
        ActivationRunner(model, NETWORK, SIZE)


def test_a_graph_that_is_not_fp32_is_refused() -> None:
    half = make_miniature()
    weight(half, "head").CopyFrom(numpy_helper.from_array(np.ones((2, 2, 1, 1), np.float16), "head"))
    with pytest.raises(ModelFileError, match="is half already, not fp32; write an fp32 file"):
        ActivationRunner(half, NETWORK, SIZE)
    quantised = make_miniature()
    quantised.graph.node[4].op_type = "DequantizeLinear"
    with pytest.raises(ModelFileError, match="is int8 already, not fp32"):
        ActivationRunner(quantised, NETWORK, SIZE)


def test_a_graph_that_does_not_load_is_refused() -> None:
    model = make_miniature()
    model.graph.node[4].op_type = "NoSuchOperator"
    with pytest.raises(ModelFileError, match=r"ONNX Runtime .* cannot load it: .*NoSuchOperator"):
        ActivationRunner(model, ["conv"], SIZE)
