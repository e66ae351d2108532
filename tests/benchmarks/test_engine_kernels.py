"""Kernels and the activations that they move, read from TensorRT-RTX's build log."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import engine_kernels

ROOT = Path(__file__).parents[2]

FORMAT = "Format: (NHWC) Channel major format }"
LOG = [
    "Name: entry^bb^wait^2_myl0_2, LayerType: wait, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 2",
    f"Name: cast_myl0_3, LayerType: kgen, Inputs: [ {{ Name: images, Dimensions: [1,300,300,3], Strides: [1,2,3,4], "
    f"StrideOrder: [3,2,1,0], Datatype: UInt8, {FORMAT}], Constants: [ {{ Name: c, Dimensions: [1,3,1,1], "
    f"Datatype: Float, {FORMAT}], Outputs: [ {{ Name: a, Dimensions: [1,3,300,300], Datatype: Int8, {FORMAT}], T: b",
    f"Name: conv, LayerType: correlation, Inputs: [ {{ Name: a, Dimensions: [1,3,300,300], Datatype: Int8, {FORMAT}], "
    f"Constants: [ {{ Name: w, Dimensions: [64,3,3,3], Datatype: Int8, {FORMAT}], "
    f"Outputs: [ {{ Name: b, Dimensions: [1,64,300,300], Datatype: Float, {FORMAT}], TacticName: t",
    f"Name: add, LayerType: kgen, Inputs: [ {{ Name: b, Dimensions: [1,64,300,300], Datatype: Float, {FORMAT}, "
    f"{{ Name: r, Dimensions: [1,64,300,300], Datatype: Half, {FORMAT}], Constants: [], "
    f"Outputs: [ {{ Name: s, Dimensions: [1,64,300,300], Datatype: Int8, {FORMAT}], TacticName: t",
    "Engine Metadata:",
]


def test_a_log_is_read() -> None:
    kernels = engine_kernels.kernels_of(LOG)
    assert [kernel.kind for kernel in kernels] == ["kgen", "correlation", "kgen"]
    assert kernels[2].reads == (("Float", 4 * 64 * 90_000), ("Half", 2 * 64 * 90_000))
    # 2 · 270,000; 270,000 + 23,040,000; 23,040,000 + 11,520,000 + 5,760,000: weights are not counted
    assert engine_kernels.figures(kernels) == {
        "kernels": 3,
        "activation_megabytes": 64.2,
        "int8_convolutions": 1,
        "int8_convolutions_write": ["Float"],
    }


def test_another_log_is_told() -> None:
    with pytest.raises(ValueError, match="lists no layer"):
        engine_kernels.kernels_of(["Engine Metadata:"])


def test_tensorrt_rtx_writes_that_log() -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    onnx = pytest.importorskip("onnx")
    from ssd_edge.calib.placement.tensorrt import place_for_tensorrt
    from ssd_edge.export.fp16.convert import half_graph

    helper, shape = onnx.helper, ["batch", 16, 16, 16]
    weights = np.random.default_rng(0).normal(0, 0.3, (16, 16, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Conv", ["r", "w"], ["y"], pads=[1, 1, 1, 1]),
    ]
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in "xy"]
    graph = helper.make_graph(nodes, "two", values[:1], values[1:], [onnx.numpy_helper.from_array(weights, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    placed = half_graph(place_for_tensorrt(model, lambda _: (-6.0, 6.0)))
    found = engine_kernels.figures(engine_kernels.kernels_of(engine_kernels.build_log(placed.SerializeToString())))
    assert found["int8_convolutions"] == 2
    assert found["kernels"] > 2
    with pytest.raises(RuntimeError):
        engine_kernels.build_log(b"no graph")


def test_the_page_says_what_the_file_says() -> None:
    rows = json.loads((ROOT / "benchmarks" / "engines.json").read_text())["rows"]
    of_one = {(row["arch"], row["precision"]): row for row in rows if row["batch"] == "1"}
    integer = [row for row in of_one.values() if row["precision"].startswith("int8")]
    assert {kind for row in integer for kind in row["int8_convolutions_write"]} == {"Float"}
    half, int8 = (round(of_one["ssd300_vgg16", name]["activation_megabytes"]) for name in ("fp16", "int8"))
    page = " ".join((ROOT / "docs" / "deploy.md").read_text().split())
    assert f"(SSD300-VGG16: {int8} instead of {half} MB per image;" in page
