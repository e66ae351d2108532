"""A batch that an exporter wrote into the constants of a graph, made dynamic.

What was traced for one image reshapes to [1, −1, 4], enlarges to [1, 64, 38, 38] and joins with constants of one image.
Whether a graph is rewritten right is not argued here: the caller runs it on several images at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from ssd_edge.calib.placement.graph import Graph
from ssd_edge.onnx_graph import node_attribute, tensor_shapes


def with_dynamic_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a first dimension of its input that may have any size.

    Args:
        model: with a fixed batch and constants folded; not changed.
    """
    shapes = tensor_shapes(model)
    graph = Graph(model)
    (source,) = graph.inputs
    variables = {source}
    for node in list(graph.nodes):
        read = [name for name in node.input if name in variables]
        if not read:
            continue
        variables.update(node.output)
        if node.op_type == "Reshape":
            _free_reshape(graph, node, shapes.get(node.input[0], ()), shapes.get(node.output[0], ()))
        elif node.op_type == "Expand" and node.input[1] in graph.constants:
            sizes = graph.array(node.input[1]).copy()
            sizes[:1] = 1  # leaves the dimension as it is
            node.input[1] = graph.add_constant(f"{node.input[1]}_any_batch", sizes)
        elif node.op_type == "Resize":
            _free_resize(graph, node, shapes.get(node.input[0], ()))
        elif node.op_type == "Concat" and len(read) < len(node.input):
            _free_concat(graph, node, read[0])
    freed = graph.finish()
    for info in (*freed.graph.input, *freed.graph.output):
        shape = info.type.tensor_type.shape
        if shape.dim:
            shape.dim[0].dim_param = "batch"
    return freed


def _free_reshape(graph: Graph, node: onnx.NodeProto, before: Sequence[int], after: Sequence[int]) -> None:
    if node.input[1] not in graph.constants or not before or not after:
        return
    kept = before[0] == after[0]
    sizes = np.array([0 if kept else -1, *after[1:]], np.int64)  # 0: as it was
    node.input[1] = graph.add_constant(f"{node.output[0]}_shape", sizes)
    for attribute in [attribute for attribute in node.attribute if attribute.name == "allowzero"]:
        node.attribute.remove(attribute)


def _free_resize(graph: Graph, node: onnx.NodeProto, before: Sequence[int]) -> None:
    """Factors instead of sizes, for sizes name the batch."""
    if len(node.input) < 4 or node.input[3] not in graph.constants or not before or node_attribute(node, "axes", None):
        return
    sizes = graph.array(node.input[3])
    if len(sizes) != len(before):
        return
    factors = np.array([1.0, *(sizes[1:] / np.array(before[1:]))], np.float32)
    node.input[2] = graph.add_constant(f"{node.output[0]}_factors", factors)
    del node.input[3]


def _free_concat(graph: Graph, node: onnx.NodeProto, variable: str) -> None:
    """Repeat the constants that are joined with a batch, once for each image."""
    for place, name in enumerate(node.input):
        if name not in graph.constants or len(graph.constants[name].dims) < 2:
            continue
        batch, sizes, repeated = (graph.new_name(f"{name}_{what}") for what in ("batch", "sizes", "repeated"))
        rest = graph.add_constant(f"{name}_image", np.array(graph.constants[name].dims[1:], np.int64))
        graph.nodes += [
            graph.node("Shape", [variable], batch, start=0, end=1),
            graph.node("Concat", [batch, rest], sizes, axis=0),
            graph.node("Expand", [name, sizes], repeated),
        ]
        node.input[place] = repeated
    graph.reindex()
