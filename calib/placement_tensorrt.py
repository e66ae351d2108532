"""Q/DQ where TensorRT wants it: symmetric int8 activations, int8 weights by output channel, float bias.

TensorRT moves Q and DQ through what commutes with them and fuses DQ → convolution → activation → Q into one int8 kernel
(docs.nvidia.com/deeplearning/tensorrt, "Working with Quantized Types", whose placement rules these are):

- A pair in front of every convolution that gains from int8 and none behind it: the next layer's pair fuses into it, and
  a head's output stays float.
- A residual sum has a pair on both inputs, else it runs in float and so does what it waits for.
- Pooling and concatenation give back values that went in: all around them have one scale, else each would rescale.
- What squeeze-and-excitation computes of one value a channel stays float: there is nothing to gain.
- The heads stay float, and read float feature maps: a few percent of the work, where int8 hurts most.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import numpy as np
import onnx

from ssd_edge.calib.graph import Graph, RangeOf
from ssd_edge.calib.qdq import Storage, insert_pairs, store_constant, symmetric_weights

LIMIT = 127  # int8 without −128, as TensorRT's own quantisation has it
HEAD = "model.head."  # what the exporter's names of an SSD's head weights begin with
ONE_SCALE = ("MaxPool", "Concat")


def place_for_tensorrt(
    model: onnx.ModelProto, range_of: RangeOf, *, keep_float: Collection[str] = ()
) -> onnx.ModelProto:
    """Write Q/DQ pairs into a float graph for TensorRT.

    Args:
        model: as `onnx_from_predictor` gives it.
        range_of: lowest and highest value of an activation tensor.
        keep_float: names of the outputs of nodes that stay float.

    Returns:
        A new model with the same inputs and outputs.
    """
    graph = Graph(model)
    integer = [node for node in _integer_convolutions(graph) if node.name not in keep_float]
    sums = [node for node in _residual_sums(graph, integer) if node.name not in keep_float]
    tensors = dict.fromkeys([node.input[0] for node in integer] + [name for node in sums for name in node.input])
    for node in integer:
        stored, scales = symmetric_weights(graph.floats(node.input[1]), LIMIT)
        node.input[1] = store_constant(graph, node.input[1], stored, scales)
    insert_pairs(graph, _storages(graph, tensors, range_of), readers=[*integer, *sums])
    return graph.finish()


def layers_for_tensorrt(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The convolutions that become int8, in graph order."""
    return _integer_convolutions(Graph(model))


def _integer_convolutions(graph: Graph) -> list[onnx.NodeProto]:
    """The convolutions that gain from int8: all before the heads that give more than one value a channel."""
    return [
        node
        for node in graph.nodes
        if node.op_type == "Conv"
        and not node.input[1].startswith(HEAD)
        and graph.values(node.output[0]) > graph.constants[node.input[1]].dims[0]
    ]


def _residual_sums(graph: Graph, integer: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Sums of two feature maps, one of them made by an int8 convolution, that another one reads."""
    read = {node.input[0] for node in integer}
    made = {node.output[0] for node in integer}
    return [
        node
        for node in graph.nodes
        if node.op_type == "Add"
        and node.output[0] in graph.behind_activations(read)
        and made & graph.behind_activations(node.input)
        and all(name in graph.producer for name in node.input)
    ]


def _storages(graph: Graph, tensors: Iterable[str], range_of: RangeOf) -> dict[str, Storage]:
    """One scale for each tensor, the same for all that pooling and concatenation connect."""
    chosen = set(tensors)
    largest = {name: max(map(abs, range_of(name))) for name in tensors}
    joined = True
    while joined:  # scales only grow, from a finite set of values
        joined = False
        for node in graph.nodes:
            group = [name for name in (*node.input, *node.output) if name in chosen]
            if node.op_type in ONE_SCALE and len({largest[name] for name in group}) > 1:
                joined = True
                largest.update(dict.fromkeys(group, max(largest[name] for name in group)))
    return {name: Storage((largest[name] or 1.0) / LIMIT, np.int8(0)) for name in largest}
