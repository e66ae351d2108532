"""Logits and offsets are found in a graph, whatever its precision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from ssd_edge.parity.max_drop import MaxDrop
from ssd_edge.parity.run import parity
from ssd_edge.parity.taps_onnx import logits_name, offsets_name
from tests.ssd_edge.parity.broken_graphs import Change, insert
from tests.ssd_edge.parity.staged import only, stage, staged

if TYPE_CHECKING:
    from tests.detectors.tiny_detector import Tiny


def half(model: onnx.ModelProto) -> None:
    for name in (logits_name(model.graph), offsets_name(model.graph)):
        assert name is not None
        insert(model, name, ("Cast", {"to": TensorProto.FLOAT16}), ("Cast", {"to": TensorProto.FLOAT}))


def quantised(model: onnx.ModelProto) -> None:
    for name, constants in (
        (logits_name(model.graph), {"logits_scale": np.float32(0.25), "logits_zero": np.int8(0)}),
        (offsets_name(model.graph), {"offsets_scale": np.float32(0.01), "offsets_zero": np.int8(0)}),
    ):
        assert name is not None
        values = {key: np.array(value) for key, value in constants.items()}
        insert(model, name, ("QuantizeLinear", {}), ("DequantizeLinear", {}), **values)


@pytest.mark.parametrize(("change", "precision"), [(half, "fp16"), (quantised, "int8")])
def test_head_outputs_of_other_precisions(tiny: Tiny, tmp_path: Path, change: Change, precision: str) -> None:
    model = tiny.write(tmp_path / "m.onnx", change, precision=precision)
    report = staged(tiny, model, max_drop=MaxDrop.parse("50%"))
    comparison = only(report)
    assert comparison.tolerance.precision == precision
    logits, offsets = (stage(comparison, name).difference for name in ("logits", "offsets"))
    assert logits is not None
    assert offsets is not None
    if precision == "int8":  # half a step of the quantisation is the most that rounding can do
        assert logits.max == pytest.approx(0.125, rel=0.1)
        assert offsets.max == pytest.approx(0.005, rel=0.1)
    else:
        assert 0 < logits.max < 0.02
    for name in ("boxes", "scores"):  # decoding itself is as exact as ever
        redecoded = stage(comparison, name).redecoded
        assert redecoded is not None
        assert redecoded < 1e-5


def test_a_tensor_that_leaves_the_network_in_half_is_read(tiny: Tiny, tmp_path: Path) -> None:
    """Two consumers with a cast each, as converters write it: the half tensor itself is what both come from."""

    def cast_at_each_consumer(model: onnx.ModelProto) -> None:
        name = offsets_name(model.graph)
        assert name is not None
        insert(model, name, ("Cast", {"to": TensorProto.FLOAT16}))
        consumers = [node for node in model.graph.node if f"{name}_after" in node.input]
        assert len(consumers) == 2
        for index, node in enumerate(consumers):
            place = list(model.graph.node).index(node)
            cast = helper.make_node("Cast", [f"{name}_after"], [f"float_{index}"], to=TensorProto.FLOAT)
            node.input[0] = f"float_{index}"
            model.graph.node.insert(place, cast)

    model = tiny.write(tmp_path / "m.onnx", cast_at_each_consumer, precision="fp16")
    assert offsets_name(onnx.load(model).graph) == f"{offsets_name(onnx.load(tiny.onnx).graph)}_after"
    offsets = stage(only(staged(tiny, model)), "offsets").difference
    assert offsets is not None
    assert 0 < offsets.max < 0.01


def test_a_quantised_tensor_with_two_readers_is_taken_before_it_is_quantised(tiny: Tiny, tmp_path: Path) -> None:
    name = offsets_name(onnx.load(tiny.onnx).graph)
    assert name is not None

    def quantise_once_and_read_twice(model: onnx.ModelProto) -> None:
        constants: dict[str, NDArray[Any]] = {"scale": np.array(0.01, np.float32), "zero": np.array(0, np.int8)}
        insert(model, name, ("QuantizeLinear", {}), **constants)
        for index, node in enumerate([node for node in model.graph.node if f"{name}_after" in node.input]):
            place = list(model.graph.node).index(node)
            reader = helper.make_node("DequantizeLinear", [f"{name}_after", *constants], [f"float_{index}"])
            node.input[0] = f"float_{index}"
            model.graph.node.insert(place, reader)

    model = tiny.write(tmp_path / "m.onnx", quantise_once_and_read_twice, precision="int8")
    assert offsets_name(onnx.load(model).graph) == name
    assert stage(only(staged(tiny, model)), "offsets").departs is False


def test_nodes_out_of_order_are_followed(tiny: Tiny) -> None:
    model = onnx.load(tiny.onnx)
    expected = logits_name(model.graph), offsets_name(model.graph)
    nodes = list(reversed(model.graph.node))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    assert (logits_name(model.graph), offsets_name(model.graph)) == expected


def test_a_graph_without_head_outputs_says_so(fixed_model: Callable[..., Path], fixed_dataset: Path) -> None:
    from ssd_edge.data.readers import read_dataset

    reference, moved = fixed_model("a.onnx"), fixed_model("b.onnx", found=((0.2, 0.2, 0.8, 0.8), (0.25, 0.5, 1, 1)))
    report = parity(
        reference, [moved], read_dataset(fixed_dataset), max_drop=MaxDrop.parse("99%"), stages=True, progress=False
    )
    comparison = only(report)
    assert stage(comparison, "logits").departs is None
    assert "not available" in stage(comparison, "logits").found
    assert "b.onnx: its graph has no logits that can be told" in report.table()
    boxes = stage(comparison, "boxes").difference
    assert boxes is not None
    assert boxes.max == pytest.approx(0.075 * 64)  # 0.2 instead of 0.125, in pixels
    assert "graph or decode: offsets cannot be compared" in comparison.conclusion
