"""The half graph: which tensors are half, what stays float32, and that it still gives what float32 gives."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from ssd_edge.card import ModelCard
from ssd_edge.checkpoint import Checkpoint, model_from_checkpoint, save_checkpoint
from ssd_edge.cli.main import main
from ssd_edge.errors import GateFailedError, ModelFileError, UsageError
from ssd_edge.export import onnx_export, trace
from ssd_edge.export.fp16.convert import half_from_float, half_graph
from ssd_edge.export.fp16.emulate import emulated_half
from ssd_edge.export.fp16.overflow import activation_maxima
from ssd_edge.export.onnx_export import ExportReport, export_onnx
from ssd_edge.export.trace import onnx_from_predictor
from ssd_edge.models.architecture import ARCHITECTURES, Architecture, find_architecture
from ssd_edge.models.backbone import Backbone
from ssd_edge.models.create import create_model
from ssd_edge.models.default_boxes import DefaultBoxConfig
from ssd_edge.models.head import ssd_head
from ssd_edge.models.predict import Predictor
from ssd_edge.runtime.detector import open_detector
from tests.detectors.exported_architectures import CLASSES, Exported
from tests.export.test_onnx_export import SIZE

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
    integers = {"axes_c": [1], "axes_hw": [2, 3], "one": [1], "two": [2], "like": [1, 4, 1, 1]}
    integers |= {"rows": [0, -1, 4], "columns": [0, -1, 2]}
    model = onnx.parser.parse_model(SSD)
    for name, value in (floats | changes).items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
    for name, value in integers.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
    return model


def images(count: int = 3) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, 4, 4, 3), np.uint8)


def run(model: onnx.ModelProto, batch: np.ndarray) -> list[np.ndarray]:
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, {model.graph.input[0].name: batch}
    )


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


def test_it_gives_what_float32_gives() -> None:
    assert_close(small_ssd(), half_graph(small_ssd()))


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


def test_an_l2_norm_whose_squares_overflow_half() -> None:
    w_head = np.random.default_rng(5).normal(0, 1e-3, (8, 4, 1, 1))
    model = small_ssd(b_stem=np.full(4, 200), w_head=w_head)  # 4 · 200² = 160,000
    half, report = half_from_float(model, images())
    assert report.kept_float == {}  # by rule, not because it was seen
    assert_close(model, half)


def test_the_emulation_rounds_as_half_does() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 18]> g (uint8[n, 1] images) => (float[n, 1] boxes)
        { f = Cast <to = 1> (images) h = Cast <to = 10> (f) a = Add (h, most) b = Sub (a, most)
          boxes = Cast <to = 1> (b) }"""
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(2048, np.float16), "most"))
    ones = np.array([[1], [2], [3]], np.uint8)
    # Above 2048 half has every second number: 2049 and 2051 are rounded to the even mantissa.
    assert run(emulated_half(model), ones)[0].ravel().tolist() == [0, 2, 4]


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
def test_weights_that_half_cannot_hold_keep_their_node_in_float32(weights: dict, message: str) -> None:
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


def test_activations_that_overflow_half_keep_their_nodes_in_float32() -> None:
    # White gives 155 / 50 · 3 channels · 10,000 = 93,000, and its square further on; the other level stays small.
    model = small_ssd(
        w_stem=np.full((4, 3, 1, 1), 10_000),
        b_stem=np.zeros(4),
        w_head=np.full((8, 4, 1, 1), 1e-4),
        std=np.full((3, 1, 1), 50),
    )
    white, black = np.full((4, 4, 3), 255, np.uint8), np.full((4, 4, 3), 100, np.uint8)
    half, report = half_from_float(model, [black, white])
    assert report.kept_float["stem"] == "stem (w_stem) reaches 9.3e+04, half ends at 65504"
    assert set(report.kept_float) == {"stem", "relu", "excite", "head_0", "offsets_0", "offsets"}
    types = types_of(half)
    assert {name for name in IN_HALF if types[name] == FLOAT} == {
        "stem",
        "map",
        "excited",
        "head_0",
        "offsets_0",
        "offsets",
    }
    expected = run(model, white[None])
    for got, wanted in zip(run(emulated_half(half), white[None]), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0.01, atol=0.01)
    blind = half_graph(model)  # without the look at images
    assert np.isnan(run(emulated_half(blind), white[None])[1]).all()
    _, dark = half_from_float(model, [black])
    assert dark.kept_float == {}


def test_activations_near_overflow_are_noted() -> None:
    model = small_ssd(w_stem=np.full((4, 3, 1, 1), 5000), b_stem=np.zeros(4), w_head=np.full((8, 4, 1, 1), 1e-4))
    half, report = half_from_float(model, [np.full((4, 4, 3), 255, np.uint8)])
    assert report.near_overflow["stem (w_stem)"] == pytest.approx(46_500)
    assert "note: stem (w_stem) reaches 46500, half ends at 65504" in str(report)
    assert types_of(half)["stem"] == HALF


def test_maxima_are_over_all_images_and_of_both_signs() -> None:
    model = small_ssd(w_stem=np.full((4, 3, 1, 1), -1), b_stem=np.zeros(4))
    batch = [np.full((4, 4, 3), value, np.uint8) for value in (100, 255, 0)]
    maxima = activation_maxima(model, batch)
    assert maxima["floats"] == 255
    assert maxima["stem"] == pytest.approx(9.3)  # −3 · 155 / 50
    assert maxima["map"] == pytest.approx(6)  # 3 · 100 / 50
    assert next(iter(maxima)) == "floats"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_layer_that_is_not_finite_is_named(value: float) -> None:
    bias = np.zeros(4)
    bias[3] = value  # the last channel: a maximum that starts from the first would pass over NaN
    with pytest.raises(GateFailedError, match=rf"^stem \(w_stem\) gives {value} in float32 already"):
        activation_maxima(small_ssd(b_stem=bias), images())


def test_no_images() -> None:
    with pytest.raises(UsageError, match="no images"):
        half_from_float(small_ssd(), [])


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


def test_scales_that_half_cannot_hold_keep_the_layer_in_float32() -> None:
    model = quantised_ssd(weight_scale=[1e-6] * 4)
    half, report = half_from_float(model, images())
    assert report.kept_float == {"stem": "s_w is too small for half: its largest value is 1e-06"}
    assert types_of(half)["stem"] == FLOAT
    assert weights_of(half)["s_w"].dtype == np.float32
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


class TwoMaps(Backbone):
    channels = (4, 8)

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Conv2d(3, 4, 8, stride=8)
        self.coarse = nn.Conv2d(4, 8, 2, stride=2)

    def forward(self, x: Tensor) -> list[Tensor]:
        fine = self.fine(x)
        return [fine, self.coarse(fine)]


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a detector that is traced in a second."""
    monkeypatch.setattr(onnx_export, "COMPARED_IMAGES", 2)
    monkeypatch.setattr(onnx_export, "OVERFLOW_IMAGES", 3)
    config = replace(
        find_architecture("ssd300_vgg16").config,
        arch="two_maps",
        size_hw=(32, 48),
        default_boxes=DefaultBoxConfig(((2,), (2,)), (0.2, 0.5, 0.9)),
        std=(50.0, 50.0, 50.0),
    )
    monkeypatch.setitem(ARCHITECTURES, "two_maps", Architecture(config, TwoMaps, ssd_head))
    torch.manual_seed(0)
    model = create_model("two_maps", 1)
    save_checkpoint(tmp_path / "own.pt", Checkpoint(model.make_card(("cat",), (1,)), model.state_dict()))
    monkeypatch.setattr(trace, "onnx_from_predictor", trace_once)
    return tmp_path / "own.pt"


TRACED: list[onnx.ModelProto] = []


def trace_once(predictor: Predictor, size_hw: tuple[int, int]) -> onnx.ModelProto:
    """The trace of the first predictor, with the weights of this one: tracing takes seconds."""
    if not TRACED:
        TRACED.append(onnx_from_predictor(predictor, size_hw))
    graph = onnx.ModelProto.FromString(TRACED[0].SerializeToString())
    weights = predictor.state_dict()
    for tensor in graph.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name].numpy(), tensor.name))
    return graph


def test_export_writes_a_half_file_that_a_detector_opens(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = []

    def export(*arguments: Any, **options: Any) -> ExportReport:
        reports.append(export_onnx(*arguments, **options))
        return reports[0]

    monkeypatch.setattr(onnx_export, "export_onnx", export)
    assert main(["export", str(checkpoint), "-o", str(tmp_path / "half.onnx"), "--precision", "fp16"]) == 0
    (report,) = reports
    assert capsys.readouterr().out == f"{report}\n"
    comparison = report.comparison
    assert 1e-6 < max(comparison.boxes_difference, comparison.scores_difference) < 1e-2  # rounded, and not by much
    assert report.precision == "fp16"
    assert "opset 18, fp16\n" in str(report)
    assert str(report).endswith("nodes in half; overflow looked for on 2 images")
    model = onnx.load(tmp_path / "half.onnx")
    assert ModelCard.from_json(model.metadata_props[0].value).precision == "fp16"
    assert HALF in types_of(model).values()
    with open_detector(tmp_path / "half.onnx") as detector:
        assert detector.infer(np.zeros((2, 32, 48, 3), np.uint8))[0].dtype == np.float32
    assert sorted(path.name for path in tmp_path.iterdir()) == ["half.onnx", "own.pt"]


def test_a_checkpoint_whose_activations_overflow_is_exported_all_the_same(checkpoint: Path, tmp_path: Path) -> None:
    model, card = model_from_checkpoint(checkpoint)
    state = model.state_dict()
    state["backbone.fine.bias"] += 1e5
    for name in state:
        if name.startswith("head") and name.endswith("weight"):
            state[name] *= 1e-6
    save_checkpoint(checkpoint, Checkpoint(card, state))
    report = export_onnx(checkpoint, tmp_path / "half.onnx", precision="fp16")
    assert any(note.startswith("kept in float32: ") and "reaches 1e+05" in note for note in report.notes)


def test_a_checkpoint_that_diverged_is_refused_and_its_layer_named(checkpoint: Path, tmp_path: Path) -> None:
    model, card = model_from_checkpoint(checkpoint)
    model.state_dict()["backbone.coarse.bias"][3] = torch.nan
    save_checkpoint(checkpoint, Checkpoint(card, model.state_dict()))
    with pytest.raises(GateFailedError, match=r"\(model\.backbone\.coarse\.weight\) gives nan in float32"):
        export_onnx(checkpoint, tmp_path / "half.onnx", precision="fp16")
    assert not (tmp_path / "half.onnx").exists()


def test_a_precision_that_is_not_there(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="precision 'int4'"):
        export_onnx(checkpoint, tmp_path / "a.onnx", precision="int4")


@pytest.mark.slow
@pytest.mark.parametrize("arch", sorted(SIZE))
def test_every_architecture_in_half(export_once: Callable[[str], Exported], arch: str) -> None:
    graph = onnx.load(export_once(arch).path)
    image = np.random.default_rng(0).integers(0, 256, (1, SIZE[arch], SIZE[arch], 3), np.uint8)
    half, report = half_from_float(graph, image)
    onnx.checker.check_model(half, full_check=True)
    assert report.kept_float == {}
    types = types_of(half)
    halves = [node for node in half.graph.node if node.op_type == "Conv" and types[node.output[0]] == HALF]
    assert len(halves) == sum(node.op_type == "Conv" for node in graph.graph.node)
    assert len(half.SerializeToString()) < 0.55 * len(graph.SerializeToString())
    for got, wanted in zip(run(emulated_half(half), image), run(graph, image), strict=True):
        np.testing.assert_allclose(got, wanted, atol=0.01, rtol=0.01)
    assert half.graph.output[1].type.tensor_type.shape.dim[2].dim_value == len(CLASSES)
    assert build_with_tensorrt_rtx(half) == []
