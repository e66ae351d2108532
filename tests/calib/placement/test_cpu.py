"""The CPU placement: what is integer, with which numbers, and that ONNX Runtime's integer kernels run it exactly."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from ssd_edge.bundled import bundled_model
from ssd_edge.calib.placement.cpu import place_for_cpu, uint8_storage
from ssd_edge.calib.placement.graph import Graph
from tests.calib.placement.small_graphs import make_model, node, run

RANDOM = np.random.default_rng(0)
NO_RANGES: dict[str, tuple[float, float]] = {}  # of a model whose layers are all float


def constant(model: onnx.ModelProto, name: str) -> np.ndarray:
    return next(numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name == name)


def operators(model: onnx.ModelProto, tmp_path: Path) -> Counter[str]:
    """The operators that ONNX Runtime makes of a model."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(n.op_type for n in onnx.load(tmp_path / "optimized.onnx", load_external_data=False).graph.node)


def test_the_range_is_covered_and_zero_is_exact() -> None:
    assert uint8_storage(0.0, 25.5) == pytest.approx((0.1, 0))
    assert uint8_storage(-1.0, 1.55) == pytest.approx((0.01, 100))
    assert uint8_storage(2.0, 5.1) == pytest.approx((0.02, 0))  # zero is always in it: padding is zero
    assert uint8_storage(-2.55, -1.0) == pytest.approx((0.01, 255))
    assert uint8_storage(0.0, 0.0).scale > 0


def pointwise(channels: int, weights: np.ndarray, bias: np.ndarray, *behind: onnx.NodeProto) -> onnx.ModelProto:
    """x → 1×1 convolution → c → perhaps an activation → z → y; maps of 4×4."""
    nodes = [node("Conv", "x w b", "c" if behind else "z"), *behind, node("Identity", "z", "y")]
    shape = [1, channels, 4, 4]
    return make_model(nodes, {"x": shape}, {"y": [1, len(weights), 4, 4]}, {"w": weights, "b": bias})


def test_weights_have_seven_bits_by_channel_and_the_bias_is_in_units_of_a_product() -> None:
    weights = np.zeros((2, 64, 1, 1), np.float32)
    weights[0, :2, 0, 0] = 0.64, -0.32
    weights[1, 3, 0, 0] = -6.4
    model = place_for_cpu(
        pointwise(64, weights, np.array([1.0, -0.5], np.float32)), {"x": (0.0, 25.5), "z": (-5.0, 5.0)}.__getitem__
    )
    stored = constant(model, "w_quantized")
    assert stored.dtype == np.int8
    assert (stored[0, :2, 0, 0].tolist(), stored[1, 3, 0, 0]) == ([64, -32], -64)
    np.testing.assert_allclose(constant(model, "w_scale"), [0.01, 0.1], rtol=1e-6)
    assert constant(model, "b_quantized").dtype == np.int32
    assert constant(model, "b_quantized").tolist() == [1000, -50]  # 1 / (0.1 · 0.01), −0.5 / (0.1 · 0.1)
    assert constant(model, "x_zero_point").dtype == np.uint8


def test_the_largest_sums_do_not_saturate(tmp_path: Path) -> None:
    """With weights of 8 bits this fails on processors that add two products in 16 bits."""
    weights = np.full((32, 64, 1, 1), 0.64, np.float32)
    float_model = pointwise(64, weights, np.zeros(32, np.float32))
    model = place_for_cpu(float_model, {"x": (0.0, 25.5), "z": (0.0, 64 * 25.5 * 0.64)}.__getitem__)
    assert operators(model, tmp_path)["QLinearConv"] == 1
    x = np.full((1, 64, 4, 4), 25.5, np.float32)
    np.testing.assert_allclose(run(model, "y", x=x), 64 * 25.5 * 0.64, rtol=1e-4)


def test_an_activation_becomes_part_of_storing(tmp_path: Path) -> None:
    weights = RANDOM.normal(size=(32, 64, 1, 1)).astype(np.float32)
    float_model = pointwise(64, weights, np.zeros(32, np.float32), node("Relu", "c", "z"))
    model = place_for_cpu(float_model, {"x": (-3.0, 3.0), "c": (-40.0, 40.0), "z": (0.0, 40.0)}.__getitem__)
    found = operators(model, tmp_path)
    assert (found["QLinearConv"], found["Relu"]) == (1, 0)
    x = RANDOM.uniform(-3, 3, (1, 64, 4, 4)).astype(np.float32)
    assert np.abs(run(model, "y", x=x) - run(float_model, "y", x=x)).max() < 0.6
    assert run(model, "y", x=x).min() == 0


def test_hardswish_is_an_integer_product(tmp_path: Path) -> None:
    identity = np.eye(64, dtype=np.float32)[:, :, None, None]
    float_model = pointwise(64, identity, np.zeros(64, np.float32), node("HardSwish", "c", "z"))
    ranges = {"x": (-8.0, 7.9), "c": (-8.0, 7.9), "z": (-0.375, 7.9)}
    model = place_for_cpu(float_model, ranges.__getitem__)
    found = operators(model, tmp_path)
    assert (found["QLinearConv"], found["QLinearMul"], found["HardSigmoid"], found["HardSwish"]) == (1, 1, 0, 0)
    x = np.linspace(-8, 7.9, 64 * 16, dtype=np.float32).reshape(1, 64, 4, 4)
    error = np.abs(run(model, "y", x=x) - run(float_model, "y", x=x))
    step_in, step_mid, step_out = 15.9 / 255, 10.9 / 255, 8.275 / 255
    assert error.max() < 1.5 * (step_in / 2 + step_mid / 2) + step_out  # hardswish is at most 1.5 times as steep as x
    below = run(model, "y", x=x)[x <= -3.1]
    assert np.abs(below).max() <= step_out / 2  # zero, as well as the output stores it


def test_hardswish_of_huge_values_stays_float() -> None:
    identity = np.eye(64, dtype=np.float32)[:, :, None, None]
    float_model = pointwise(64, identity, np.zeros(64, np.float32), node("HardSwish", "c", "z"))
    model = place_for_cpu(float_model, {"x": (0, 900), "c": (0, 900), "z": (0, 900)}.__getitem__)
    assert "HardSwish" in {n.op_type for n in model.graph.node}
    x = np.linspace(0, 900, 64 * 16, dtype=np.float32).reshape(1, 64, 4, 4)
    assert np.abs(run(model, "y", x=x) - run(float_model, "y", x=x)).max() < 3 * 900 / 255


def block() -> onnx.ModelProto:
    """Pooling, a residual sum, and a product with squeezed channels, between convolutions of 64 channels."""
    nodes = [
        node("Conv", "x w0", "c0"),
        node("MaxPool", "c0", "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", "p w1", "c1"),
        node("Add", "c1 p", "a"),
        node("ReduceMean", "a axes", "m", keepdims=1),
        node("Conv", "m w2", "c2"),
        node("Mul", "c2 a", "s"),
        node("Conv", "s w3", "z"),
        node("Identity", "z", "y"),
    ]
    weights = {f"w{i}": np.random.default_rng(i).normal(0, 0.1, (64, 64, 1, 1)).astype(np.float32) for i in range(4)}
    return make_model(
        nodes, {"x": [1, 64, 8, 8]}, {"y": [1, 64, 4, 4]}, {**weights, "axes": np.array([2, 3], np.int64)}
    )


BLOCK_RANGES = {
    "x": (-3.0, 3.0),
    "c0": (-3.0, 3.0),
    "p": (-1.0, 3.0),
    "c1": (-3.0, 3.0),
    "a": (-4.0, 5.0),
    "m": (-1.0, 2.0),
    "c2": (-1.0, 1.0),
    "s": (-3.0, 3.0),
    "z": (-3.0, 3.0),
}


def test_pooling_sums_and_products_between_integers_are_integer(tmp_path: Path) -> None:
    model = place_for_cpu(block(), BLOCK_RANGES.__getitem__)
    found = operators(model, tmp_path)
    expected = {"QLinearConv": 4, "QLinearAdd": 1, "QLinearMul": 1, "QLinearGlobalAveragePool": 1}
    assert {name: found[name] for name in expected} == expected
    assert (found["QuantizeLinear"], found["DequantizeLinear"]) == (1, 1)  # at the door, on the way in and out
    assert constant(model, "p_scale") == constant(model, "c0_scale")  # pooling gives values that went in
    x = RANDOM.uniform(-3, 3, (1, 64, 8, 8)).astype(np.float32)
    expected_y, y = run(block(), "y", x=x), run(model, "y", x=x)
    assert y.shape == expected_y.shape


def test_the_block_computes_what_it_did() -> None:
    float_model = block()
    x = RANDOM.uniform(-1, 1, (1, 64, 8, 8)).astype(np.float32)
    with_all = block()
    names = [name for name in BLOCK_RANGES if name != "x"]
    with_all.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, None) for name in names)
    values = {"x": x, **{name: run(with_all, name, x=x) for name in names}}
    model = place_for_cpu(float_model, lambda name: (float(values[name].min()), float(values[name].max())))
    error = run(model, "y", x=x) - values["z"]
    assert np.sqrt(np.mean(error**2)) < 0.03 * values["z"].std()


def test_what_is_kept_stays_float(tmp_path: Path) -> None:
    model = place_for_cpu(block(), BLOCK_RANGES.__getitem__, keep_float=["c1", "a"])
    found = operators(model, tmp_path)
    assert found["QLinearConv"] == 3
    assert found["QLinearAdd"] == 0
    assert "w1" in {tensor.name for tensor in model.graph.initializer}
    everything = place_for_cpu(block(), BLOCK_RANGES.__getitem__, keep_float=["c0", "c1", "c2", "z"])
    assert "QuantizeLinear" not in {n.op_type for n in everything.graph.node}


def test_the_given_model_is_left_as_it_was() -> None:
    model = block()
    before = model.SerializeToString()
    place_for_cpu(model, BLOCK_RANGES.__getitem__)
    assert model.SerializeToString() == before


@pytest.mark.parametrize(("crossing", "float_ones"), [(4, {"w0", "w1", "w2"}), (16, set())])
def test_a_beginning_of_few_products_stays_float_where_little_crosses(crossing: int, float_ones: set[str]) -> None:
    """3 → 16 channels, depthwise, 16 → 4 or 16: few products a value; then → 128 and 128 → 64 gain."""
    shapes = {
        "w0": (16, 3, 3, 3),
        "w1": (16, 1, 3, 3),
        "w2": (crossing, 16, 1, 1),
        "w3": (128, crossing, 3, 3),
        "w4": (64, 128, 1, 1),
    }
    nodes = [
        node("Conv", "x w0", "c0", pads=[1, 1, 1, 1]),
        node("Conv", "c0 w1", "c1", pads=[1, 1, 1, 1], group=16),
        node("Conv", "c1 w2", "c2"),
        node("Conv", "c2 w3", "c3", pads=[1, 1, 1, 1]),
        node("Conv", "c3 w4", "y"),
    ]
    weights = {name: RANDOM.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    model = place_for_cpu(
        make_model(nodes, {"x": [1, 3, 16, 16]}, {"y": [1, 64, 16, 16]}, weights), lambda _: (-1.0, 1.0)
    )
    assert set(shapes) & {tensor.name for tensor in model.graph.initializer} == float_ones
    assert {n.input[0] for n in model.graph.node if n.op_type == "QuantizeLinear"} >= {"c2", "c3"}


def normalised_image(mean: list[float], std: list[float], out: int) -> onnx.ModelProto:
    """images, uint8 [1, 12, 12, 3] → normalised, 3×3 convolution with padding, Relu → y [1, out, 12, 12]."""
    nodes = [
        node("Cast", "images", "f", to=onnx.TensorProto.FLOAT),
        node("Transpose", "f", "t", perm=[0, 3, 1, 2]),
        node("Sub", "t mean", "s"),
        node("Div", "s std", "n"),
        node("Conv", "n w b", "c", pads=[1, 1, 1, 1]),
        node("Relu", "c", "r"),
        node("Identity", "r", "y"),
    ]
    random = np.random.default_rng(3)
    constants = {
        "mean": np.array(mean, np.float32).reshape(-1, 1, 1),
        "std": np.array(std, np.float32).reshape(-1, 1, 1),
        "w": random.normal(size=(out, 3, 3, 3)).astype(np.float32),
        "b": random.normal(size=out).astype(np.float32),
    }
    inputs = [onnx.helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, [1, 12, 12, 3])]
    outputs = [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, out, 12, 12])]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = onnx.helper.make_graph(nodes, "normalised", inputs, outputs, tensors)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def test_normalisation_is_an_integer_convolution_where_the_first_one_is(tmp_path: Path) -> None:
    mean, std = [123.7, 116.3, 103.5], [58.4, 57.1, 57.4]
    float_model = normalised_image(mean, std, 64)
    ranges = {"n": (-123.7 / 57, 151.5 / 57), "r": (0.0, 20.0)}
    model = place_for_cpu(float_model, ranges.__getitem__)
    found = operators(model, tmp_path)
    assert (found["QLinearConv"], found["Cast"], found["Sub"], found["Div"], found["QuantizeLinear"]) == (2, 0, 0, 0, 0)
    images = RANDOM.integers(0, 256, (1, 12, 12, 3), np.uint8)
    expected = run(float_model, "y", images=images)
    # 27 inputs, each rounded by up to half a step, weights by up to 1/128 of the largest
    error = run(model, "y", images=images) - expected
    assert np.sqrt(np.mean(error**2)) < 0.02 * expected.max()
    assert abs(error.mean()) < 0.005 * expected.max()


def test_normalisation_by_one_mean_is_the_zero_point_of_a_float_beginning(tmp_path: Path) -> None:
    float_model = normalised_image([127.5] * 3, [127.5] * 3, 64)
    model = place_for_cpu(float_model, NO_RANGES.__getitem__, keep_float=["c"])
    found = operators(model, tmp_path)
    assert (found["DequantizeLinear"], found["Cast"], found["Sub"], found["Div"]) == (1, 0, 0, 0)
    images = RANDOM.integers(0, 256, (1, 12, 12, 3), np.uint8)
    y, expected = run(model, "y", images=images), run(float_model, "y", images=images)
    inside = np.s_[:, :, 1:-1, 1:-1]
    np.testing.assert_allclose(y[inside], expected[inside], atol=2e-5)
    assert 0 < np.abs(y - expected).max() < 27 * 3 * 0.5 / 127.5  # padding is half a level off


def test_a_mean_for_each_channel_stays_in_a_float_beginning() -> None:
    float_model = normalised_image([123.7, 116.3, 103.5], [1.0] * 3, 64)
    model = place_for_cpu(float_model, NO_RANGES.__getitem__, keep_float=["c"])
    assert [n.op_type for n in model.graph.node] == ["Cast", "Transpose", "Sub", "Div", "Conv", "Relu", "Identity"]


def test_hardsigmoid_is_what_storing_clips(tmp_path: Path) -> None:
    """Squeeze and excitation: the gate is stored by its convolution, the product reads those bytes."""
    nodes = [
        node("Conv", "x w0 b0", "c"),
        node("HardSigmoid", "c", "g", alpha=1 / 6, beta=0.5),
        node("Conv", "x w1 b1", "d"),
        node("Mul", "g d", "z"),
        node("Conv", "z w1 b1", "e"),
        node("Identity", "e", "y"),
    ]
    eye = np.eye(64, dtype=np.float32)[:, :, None, None]
    weights = {"w0": 2 * eye, "w1": eye, "b0": np.full(64, -0.5, np.float32), "b1": np.zeros(64, np.float32)}
    float_model = make_model(nodes, {"x": [1, 64, 8, 8]}, {"y": [1, 64, 8, 8]}, weights)
    reach = {"x": 4.0, "c": 9.0, "g": 1.0, "d": 4.0, "z": 4.0, "e": 4.0}
    model = place_for_cpu(float_model, lambda name: (-reach[name], reach[name]))
    found = operators(model, tmp_path)
    assert (found["QLinearConv"], found["QLinearMul"], found["HardSigmoid"], found["QuantizeLinear"]) == (3, 1, 0, 1)
    kept = place_for_cpu(float_model, lambda name: (-reach[name], reach[name]), keep_float=["g"])
    assert operators(kept, tmp_path)["HardSigmoid"] == 1
    x = np.linspace(-4, 4, 64 * 64, dtype=np.float32).reshape(1, 64, 8, 8)  # from far below the clip to far above it
    step = 8 / 255
    assert np.abs(run(model, "y", x=x) - run(float_model, "y", x=x)).max() < 4 * (step / 3 + 1 / 510) + 2 * step


def test_the_bundled_model_keeps_its_contract_and_detections(tmp_path: Path) -> None:
    float_model = onnx.load(bundled_model())
    graph = Graph(float_model)
    names = [name for n in graph.nodes for name in n.output if n.op_type in ("Conv", "HardSwish", "Add", "Mul", "Relu")]
    names += [n.output[0] for n in graph.nodes if n.op_type in ("HardSigmoid", "Clip", "ReduceMean", "Div")]
    names = [name for name in names if name not in graph.outputs]
    for name in names:
        float_model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    images = RANDOM.integers(0, 256, (2, 320, 320, 3), np.uint8)
    images[:, 64:256, 64:256] = 240
    session = ort.InferenceSession(float_model.SerializeToString(), providers=["CPUExecutionProvider"])
    boxes, scores, *values = session.run(["boxes", "scores", *names], {"images": images})
    ranges = {name: (float(value.min()), float(value.max())) for name, value in zip(names, values, strict=True)}

    model = place_for_cpu(onnx.load(bundled_model()), ranges.__getitem__)
    onnx.checker.check_model(model, full_check=True)
    assert operators(model, tmp_path)["QLinearConv"] > 70
    assert len(model.SerializeToString()) < 0.4 * bundled_model().stat().st_size
    assert np.abs(run(model, "scores", images=images) - scores).max() < 0.1
    assert np.percentile(np.abs(run(model, "boxes", images=images) - boxes), 99) < 0.05
    assert model.graph.input == float_model.graph.input
    assert [output.name for output in model.graph.output] == ["boxes", "scores"]
