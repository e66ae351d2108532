"""The TensorRT placement: symmetric pairs in front of convolutions and on the residual of sums, and nowhere else."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from ssd_edge.bundled import bundled_model
from ssd_edge.calib.placement.tensorrt import place_for_tensorrt
from tests.calib.placement.small_graphs import make_model, node, run

RANDOM = np.random.default_rng(0)


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def producers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {name: n for n in model.graph.node for name in n.output}


def stored_tensors(model: onnx.ModelProto) -> set[str]:
    return {n.input[0] for n in model.graph.node if n.op_type == "QuantizeLinear"}


def network() -> onnx.ModelProto:
    """Pooling, squeeze-and-excitation, a residual sum, and a box that is decoded by sums."""
    nodes = [
        node("Conv", "x w0 b0", "c0"),
        node("Relu", "c0", "r0"),
        node("MaxPool", "r0", "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", "p w1", "c1"),
        node("ReduceMean", "c1 axes", "m", keepdims=1),
        node("Conv", "m w2", "c2"),
        node("Mul", "c2 c1", "s"),
        node("Conv", "s w3", "c3"),
        node("Add", "c3 p", "a"),
        node("Conv", "a w4 b4", "c4"),
        node("Conv", "c4 model.head.weight", "logits"),
        node("Mul", "logits centre", "shift"),
        node("Add", "logits shift", "boxes"),
        node("Relu", "c4", "scores"),
    ]
    values = {f"w{i}": np.random.default_rng(i).normal(0, 0.3, (8, 8, 1, 1)).astype(np.float32) for i in range(5)}
    values |= {"b0": np.full(8, 0.1, np.float32), "b4": np.zeros(8, np.float32), "axes": np.array([2, 3], np.int64)}
    values["model.head.weight"] = values["w0"]
    values["centre"] = np.array(0.5, np.float32)
    outputs: dict[str, list[int | str]] = {name: ["batch", 8, 4, 4] for name in ("boxes", "scores")}
    return make_model(nodes, {"x": ["batch", 8, 8, 8]}, outputs, values)


RANGES = {
    "x": (-1.0, 2.54),
    **dict.fromkeys(("c0", "c1", "c2", "c4", "m"), (-3.0, 3.0)),
    "r0": (0.0, 3.0),
    "p": (0.0, 2.54),
    "s": (-1.27, 1.0),
    "c3": (-1.0, 1.0),
    "a": (-6.35, 5.0),
}


def test_the_pairs_are_in_front_of_convolutions_and_on_the_residual_of_sums() -> None:
    model = place_for_tensorrt(network(), RANGES.__getitem__)
    onnx.checker.check_model(model, full_check=True)
    assert stored_tensors(model) == {"x", "p", "s", "a"}  # not m: one value per channel; no head, no decoding
    made = producers(model)
    for name in ("c0", "c1", "c3", "c4"):
        data, weights = made[name].input[:2]
        assert (made[data].op_type, made[weights].op_type) == ("DequantizeLinear", "DequantizeLinear")
    assert list(made["a"].input) == ["c3", "p_dequantized"]  # nothing between the branch's convolution and the sum
    assert [list(made[name].input) for name in ("c2", "logits", "boxes")] == [
        ["m", "w2"],
        ["c4", "model.head.weight"],
        ["logits", "shift"],
    ]


def test_scales_are_symmetric_and_weights_by_channel() -> None:
    model = place_for_tensorrt(network(), RANGES.__getitem__)
    values = constants(model)
    assert values["x_scale"] == pytest.approx(0.02)  # 2.54 / 127
    assert values["s_scale"] == pytest.approx(0.01)
    assert values["a_scale"] == pytest.approx(0.05)
    zero_points = [n.input[2] for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert {(values[name].dtype, int(np.abs(values[name]).max())) for name in zero_points} == {(np.dtype(np.int8), 0)}
    weights = constants(network())["w0"]
    np.testing.assert_allclose(values["w0_scale"], np.abs(weights).max(axis=(1, 2, 3)) / 127, rtol=1e-6)
    assert np.abs(values["w0_quantized"]).max(axis=(1, 2, 3)).tolist() == [127] * 8


def test_the_bias_stays_float() -> None:
    model = place_for_tensorrt(network(), RANGES.__getitem__)
    assert producers(model)["c0"].input[2] == "b0"
    assert constants(model)["b0"].dtype == np.float32


def test_what_pooling_connects_has_one_scale() -> None:
    nodes = [
        node("Conv", "x w", "c"),
        node("MaxPool", "c", "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", "p w", "u"),
        node("Conv", "c v", "d"),
        node("Concat", "u p", "j", axis=1),
        node("Conv", "j z", "y"),
    ]
    values = {
        "w": RANDOM.normal(size=(4, 4, 1, 1)).astype(np.float32),
        "v": RANDOM.normal(size=(4, 4, 1, 1)).astype(np.float32),
        "z": RANDOM.normal(size=(4, 8, 1, 1)).astype(np.float32),
    }
    model = make_model(nodes, {"x": [1, 4, 8, 8]}, {"y": [1, 4, 4, 4], "d": [1, 4, 8, 8]}, values)
    ranges = {"x": (0.0, 1.27), "c": (-2.54, 2.0), "p": (0.0, 2.0), "u": (0.0, 1.0), "j": (0.0, 5.08)}
    found = constants(place_for_tensorrt(model, ranges.__getitem__))
    # c and p by the pooling, p and j by the concatenation
    assert [float(found[f"{name}_scale"]) for name in "cpj"] == pytest.approx([0.04] * 3)
    assert float(found["x_scale"]) == pytest.approx(0.01)


def test_what_is_kept_stays_float() -> None:
    model = place_for_tensorrt(network(), RANGES.__getitem__, keep_float=["c1", "a"])
    assert stored_tensors(model) == {"x", "s", "a"}  # convolutions that stay integer read them
    assert list(producers(model)["c1"].input) == ["p", "w1"]
    nothing = place_for_tensorrt(network(), RANGES.__getitem__, keep_float=["c0", "c1", "c3", "c4"])
    assert [n.op_type for n in nothing.graph.node] == [n.op_type for n in network().graph.node]


def test_it_computes_what_it_did() -> None:
    float_model = network()
    x = RANDOM.uniform(-1, 2.5, (3, 8, 8, 8)).astype(np.float32)
    with_all = network()
    names = [name for name in RANGES if name != "x"]
    with_all.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, None) for name in names)
    values = {"x": x, **{name: run(with_all, name, x=x) for name in names}}
    model = place_for_tensorrt(float_model, lambda name: (float(values[name].min()), float(values[name].max())))
    expected = run(float_model, "boxes", x=x)
    error = run(model, "boxes", x=x) - expected
    assert 0 < np.sqrt(np.mean(error**2)) < 0.02 * expected.std()


def test_the_bundled_model_is_placed_whole() -> None:
    float_model = onnx.load(bundled_model())
    model = place_for_tensorrt(float_model, lambda _: (-6.0, 6.0))
    onnx.checker.check_model(model, full_check=True)
    made = producers(model)
    stored = [n for n in model.graph.node if n.op_type == "Conv" and made[n.input[0]].op_type == "DequantizeLinear"]
    squeezed = [n for n in model.graph.node if n.op_type == "Conv" and n not in stored]
    # 24 of heads, 19 depthwise, 16 of squeeze-and-excitation, 1 on a map of one cell
    assert (len(stored), len(squeezed)) == (38, 60)
    sums = [n for n in model.graph.node if n.op_type == "Add" and made[n.input[1]].op_type == "DequantizeLinear"]
    assert len(sums) == 10  # MobileNetV3-Large's residual blocks; 3 more sums decode boxes
    assert {made[n.input[0]].op_type for n in sums} == {"Conv"}
