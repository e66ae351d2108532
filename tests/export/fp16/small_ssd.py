"""An SSD in a few nodes, and what the tests of half precision look at in its graphs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from ssd_edge.export.fp16.emulate import emulated_half

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
# An SSD in small: a squeeze-and-excitation mean, conv4_3's L2 norm, two levels, decoding, softmax.
SSD = """
<ir_version: 8, opset_import: ["" : 18]>
small (uint8[batch, 4, 4, 3] images) => (float[batch, 64, 4] boxes, float[batch, 64, 1] scores)
{
  [cast] floats = Cast <to = 1> (images)
  [planes] planes = Transpose <perm = [0, 3, 1, 2]> (floats)
  [sub] centred = Sub (planes, mean)
  [div] normal = Div (centred, std)
  [stem] stem = Conv (normal, w_stem, b_stem)
  [relu] map = Relu (stem)
  [pool] mean_hw = ReduceMean <keepdims = 1> (map, axes_hw)
  [excite] excited = Mul (map, mean_hw)
  [norm] norm = ReduceL2 <keepdims = 1> (map, axes_c)
  [clip] clipped = Clip (norm, tiny)
  [expand] expanded = Expand (clipped, like)
  [unit] unit = Div (map, expanded)
  [scaled] scaled = Mul (unit, scale)
  [head_0] head_0 = Conv (excited, w_head)
  [head_1] head_1 = Conv (scaled, w_head)
  [offsets_0] offsets_0 = Reshape (head_0, rows)
  [offsets_1] offsets_1 = Reshape (head_1, rows)
  [offsets] offsets = Concat <axis = 1> (offsets_0, offsets_1)
  [decode] sizes = Mul (offsets, variance)
  [limit] limited = Clip (sizes, , limit)
  [exp] larger = Exp (limited)
  [boxes] boxes = Mul (larger, default_boxes)
  [logits] logits = Reshape (head_1, columns)
  [softmax] all_scores = Softmax <axis = 2> (logits)
  [scores] scores = Slice (all_scores, one, two, two)
}
"""
IN_HALF = {"stem", "map", "excited", "scaled", "head_0", "head_1", "offsets_0", "offsets_1", "offsets", "logits"}
IN_FLOAT = (
    {"floats", "planes", "centred", "normal"}  # before the network
    | {"mean_hw", "norm", "clipped", "expanded", "unit"}  # sums
    | {"sizes", "limited", "larger", "boxes", "all_scores", "scores"}  # behind the network
)
CASTS = {
    ("images", "floats", FLOAT),
    ("normal", "normal_half", HALF),
    ("map", "map_float", FLOAT),
    ("mean_hw", "mean_hw_half", HALF),
    ("unit", "unit_half", HALF),
    ("offsets", "offsets_float", FLOAT),
    ("logits", "logits_float", FLOAT),
}


def small_ssd(**changes: np.ndarray) -> onnx.ModelProto:
    random = np.random.default_rng(0)
    floats = {
        "mean": np.full((3, 1, 1), 100),
        "std": np.full((3, 1, 1), 50),
        "w_stem": random.normal(0, 1, (4, 3, 1, 1)),
        "b_stem": random.normal(0, 0.1, 4),
        "w_head": random.normal(0, 0.3, (8, 4, 1, 1)),
        "scale": np.full((4, 1, 1), 20),
        "default_boxes": random.uniform(0, 1, (64, 4)),
        "tiny": np.array(1e-12),
        "variance": np.array(0.2),
        "limit": np.array(4.135),
    }
    integers: dict[str, list[int]] = {"axes_c": [1], "axes_hw": [2, 3], "one": [1], "two": [2], "like": [1, 4, 1, 1]}
    integers |= {"rows": [0, -1, 4], "columns": [0, -1, 2]}
    model = onnx.parser.parse_model(SSD)
    constants = {name: np.asarray(value, np.float32) for name, value in (floats | changes).items()}
    constants |= {name: np.array(value, np.int64) for name, value in integers.items()}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    return model


def images(count: int = 3) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, 4, 4, 3), np.uint8)


def run(model: onnx.ModelProto, batch: np.ndarray) -> list[np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    results: list[np.ndarray] = session.run(None, {model.graph.input[0].name: batch})
    return results


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    """As shape inference finds them, not as the file says."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(bare, check_type=True, strict_mode=True).graph
    return {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.output)}


def weights_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def assert_close(model: onnx.ModelProto, half: onnx.ModelProto, atol: float = 0.01) -> None:
    """Run as it is, and as a GPU would, half gives what float32 gives."""
    expected = run(model, images())
    for graph in (half, emulated_half(half)):
        for got, wanted in zip(run(graph, images()), expected, strict=True):
            np.testing.assert_allclose(got, wanted, atol=atol, rtol=atol)


def casts_of(model: onnx.ModelProto) -> set[tuple[str, str, int]]:
    return {(n.input[0], n.output[0], n.attribute[0].i) for n in model.graph.node if n.op_type == "Cast"}


def node_of(model: onnx.ModelProto, output: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if output in node.output)


def build_with_tensorrt_rtx(model: onnx.ModelProto) -> list[str]:
    """What the parser and the builder complain of; they need no GPU. Skips where they are not installed."""
    trt = pytest.importorskip("tensorrt_rtx_bindings")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model.SerializeToString()):
        return [str(parser.get_error(index)) for index in range(parser.num_errors)]
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    image = tuple(network.get_input(0).shape)[1:]
    profile.set_shape(network.get_input(0).name, (1, *image), (1, *image), (4, *image))
    config.add_optimization_profile(profile)
    return [] if builder.build_serialized_network(network, config) is not None else ["no engine"]


def quantised_ssd(weight_scale: Sequence[float] = (0.01,) * 4) -> onnx.ModelProto:
    """The stem and head_0 of `small_ssd` in int8, as TensorRT wants Q/DQ; `map_dq` feeds half and float nodes."""
    model = small_ssd()
    quantised = np.random.default_rng(3).integers(-127, 128, (4, 3, 1, 1)).astype(np.int8)
    for name, value in {
        "q_w": quantised,
        "s_w": np.array(weight_scale, np.float32),
        "z_w": np.zeros(4, np.int8),
        "s_x": np.array(0.03, np.float32),
        "s_m": np.array(0.05, np.float32),
        "z": np.array(0, np.int8),
    }.items():
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    added = [
        helper.make_node("QuantizeLinear", ["normal", "s_x", "z"], ["x_q"], "x_q"),
        helper.make_node("DequantizeLinear", ["x_q", "s_x", "z"], ["x_dq"], "x_dq"),
        helper.make_node("DequantizeLinear", ["q_w", "s_w", "z_w"], ["w_dq"], "w_dq", axis=0),
        helper.make_node("QuantizeLinear", ["map", "s_m", "z"], ["map_q"], "map_q"),
        helper.make_node("DequantizeLinear", ["map_q", "s_m", "z"], ["map_dq"], "map_dq"),
    ]
    nodes = list(model.graph.node)
    at = [node.name for node in nodes].index("stem")
    nodes[at].input[0], nodes[at].input[1] = "x_dq", "w_dq"
    for node in nodes[at + 2 :]:
        for place, name in enumerate(node.input):
            node.input[place] = "map_dq" if name == "map" else name
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:at], *added[:3], *nodes[at : at + 2], *added[3:], *nodes[at + 2 :]])
    onnx.checker.check_model(model, full_check=True)
    return model
