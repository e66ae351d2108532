"""The index of an ONNX graph, its order, and what is known of its tensors."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ssd_edge.onnx_graph import (
    GraphIndex,
    add_metadata,
    element_types,
    metadata_of,
    node_attribute,
    tensor_shapes,
    topologically_sorted,
)

GRAPH = """
<ir_version: 8, opset_import: ["" : 18]>
small (uint8[batch, 4] images, float[4] scale) => (float[batch, 4] boxes)
{
  [cast] floats = Cast <to = 1> (images)
  [square] squares = Mul (floats, floats)
  [scaled] scaled = Mul (squares, scale)
  [boxes] boxes = Relu (scaled)
  [shape] shape = Shape (boxes)
}
"""


@pytest.fixture
def model() -> onnx.ModelProto:
    model = onnx.parser.parse_model(GRAPH)
    model.graph.initializer.append(numpy_helper.from_array(np.arange(4, dtype=np.float32), "scale"))
    return model


def names(nodes: list[onnx.NodeProto]) -> list[str]:
    return [node.name for node in nodes]


def test_the_index_tells_who_makes_and_who_reads_a_tensor(model: onnx.ModelProto) -> None:
    index = GraphIndex(model.graph)
    assert (index.inputs, index.outputs, list(index.constants)) == (["images"], {"boxes"}, ["scale"])
    assert {name: node.name for name, node in index.producer.items()} == {
        "floats": "cast", "squares": "square", "scaled": "scaled", "boxes": "boxes", "shape": "shape"
    }  # fmt: skip
    assert names(index.readers["floats"]) == ["square"]  # once, though it reads it twice
    assert names(index.readers["absent"]) == []
    assert names(index.of("Mul")) == ["square", "scaled"]
    assert index.made_by("squares", "Add", "Mul")
    assert not index.made_by("squares", "Add")
    assert not index.made_by("images", "Mul")
    assert index.array("scale").tolist() == [0, 1, 2, 3]


def test_an_output_of_the_graph_has_more_readers_than_its_nodes(model: onnx.ModelProto) -> None:
    index = GraphIndex(model.graph)
    only = index.only_reader("scaled")
    assert only is not None
    assert only.name == "boxes"
    assert index.only_reader("boxes") is None


def test_the_way_back_ends_at_other_operators(model: onnx.ModelProto) -> None:
    index = GraphIndex(model.graph)
    assert index.back_through(["Relu", "Mul"], ["boxes"]) == {"boxes", "scaled", "squares", "floats"}
    assert index.back_through(["Relu"], ["boxes"]) == {"boxes", "scaled"}


def test_an_index_follows_changes_when_it_is_told(model: onnx.ModelProto) -> None:
    index = GraphIndex(model.graph)
    index.nodes.append(helper.make_node("Neg", ["boxes"], ["negative"], name="negative"))
    index.reindex()
    assert index.made_by("negative", "Neg")
    assert names(index.readers["boxes"]) == ["shape", "negative"]


def test_attributes_have_defaults(model: onnx.ModelProto) -> None:
    cast = GraphIndex(model.graph).producer["floats"]
    assert (node_attribute(cast, "to", 0), node_attribute(cast, "saturate", 1)) == (TensorProto.FLOAT, 1)


def test_an_order_that_is_topological_stays_and_another_becomes_so(model: onnx.ModelProto) -> None:
    nodes = list(model.graph.node)
    assert names(topologically_sorted(nodes)) == names(nodes)
    assert names(topologically_sorted([*nodes[2:], *nodes[:2]])) == names(nodes)


def test_a_graph_of_many_layers_is_sorted() -> None:
    nodes = [helper.make_node("Relu", [f"t{i}"], [f"t{i + 1}"], name=str(i)) for i in range(3000)]
    assert names(topologically_sorted(nodes[::-1])) == names(nodes)


def test_types_are_declared_or_else_inferred(model: onnx.ModelProto) -> None:
    floats = dict.fromkeys(("floats", "squares", "scaled", "boxes", "scale"), TensorProto.FLOAT)
    expected = floats | {"images": TensorProto.UINT8, "shape": TensorProto.INT64}
    assert element_types(model) == expected
    assert element_types(onnx.shape_inference.infer_shapes(model)) == expected


def test_the_type_of_what_an_unknown_operator_gives_is_not_told(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("mine", 1))
    model.graph.node.append(helper.make_node("Own", ["boxes"], ["secret"], domain="mine"))
    assert not element_types(model).get("secret")


def test_shapes_are_those_of_one_image(model: onnx.ModelProto) -> None:
    shapes = tensor_shapes(model)
    assert (shapes["images"], shapes["scaled"], shapes["shape"]) == ((1, 4), (1, 4), (2,))


def test_large_constants_have_shapes_without_their_values_being_copied(model: onnx.ModelProto) -> None:
    weights = numpy_helper.from_array(np.zeros((4, 65), np.float32), "weights")
    model.graph.initializer.append(weights)
    model.graph.node.append(helper.make_node("MatMul", ["boxes", "weights"], ["wide"]))
    assert tensor_shapes(model)["wide"] == (1, 65)
    assert element_types(model)["weights"] == TensorProto.FLOAT


def test_metadata_is_added_to_what_is_there(model: onnx.ModelProto) -> None:
    add_metadata(model, {"a": "1", "b": "2"})
    add_metadata(model, {"b": "3"})
    assert metadata_of(model) == {"a": "1", "b": "3"}
