"""Q/DQ where TensorRT wants it: symmetric int8 activations, int8 weights by output channel, float bias.

TensorRT moves Q and DQ through what commutes with them and fuses DQ → convolution → activation → Q into one kernel.
The rules are those of NVIDIA's documentation (docs.nvidia.com/deeplearning/tensorrt, "Working with Quantized Types",
section "Q/DQ Layer-Placement Recommendations") and of its TensorRT Model Optimizer (modelopt/onnx/quantization):

- A pair in front of every convolution that gains from int8 and none behind it: the next layer's pair fuses into it, and
  a head's output stays float.
- Of a residual sum only the residual input has a pair: the block's input, or the shortcut's convolution of it. The sum
  fuses into the convolution of the branch, and the next layer's Q with it. A pair on the branch would separate the two;
  none on the residual would keep the result float. Where the branch's convolution is float, so is the sum.
- Pooling and concatenation give back values that went in: all around them have one scale, else each would rescale.
- Depthwise convolutions stay float. TensorRT has no int8 kernel for one with a generic activation such as hard-swish
  ("Could not find any implementation": NVIDIA/TensorRT#3385, #4060) and does not optimise hard-swish (#983);
  MobileNetV3 in int8 is reported no faster than in half (#2197). They are 7 % of the multiplications of
  SSDlite320 with 90 classes.
- What squeeze-and-excitation computes of one value per channel stays float, and so do layers on a map of one cell:
  there is nothing to gain.
- The heads stay float and read float feature maps unless `int8_heads` is asked for: nothing behind them evens out
  what rounding does to boxes and scores. That has a price: they are 34 % of the multiplications of SSDlite320 and 14 %
  of those of SSD300-VGG16 with 90 classes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import numpy as np
import onnx

from ssd_edge.calib.placement.graph import Graph, RangeOf
from ssd_edge.calib.placement.qdq import Storage, insert_pairs, store_constant, symmetric_weights
from ssd_edge.calib.placement.residual import ResidualSum, residual_sums

LIMIT = 127  # int8 without −128, as TensorRT's own quantisation has it
ONE_SCALE = ("MaxPool", "Concat")
BEFORE_Q = ("Relu", "Clip", "HardSwish", "MaxPool")  # what may be between a sum and the Q that fuses with it
# Why a convolution stays float
OF_THE_HEADS = "of the heads"
DEPTHWISE = "depthwise"
ONE_VALUE = "with one value per channel"


def place_for_tensorrt(
    model: onnx.ModelProto, range_of: RangeOf, *, keep_float: Collection[str] = (), int8_heads: bool = False
) -> onnx.ModelProto:
    """Write Q/DQ pairs into a float graph for TensorRT.

    Args:
        model: as `onnx_from_predictor` gives it.
        range_of: lowest and highest value of an activation tensor.
        keep_float: names of the outputs of nodes that stay float.
        int8_heads: quantise the heads' convolutions as those of the backbone.

    Returns:
        A new model with the same inputs and outputs.
    """
    graph = Graph(model)
    in_float = {*float_layers_for_tensorrt(graph, int8_heads=int8_heads), *keep_float}
    integer = [node for node in graph.of("Conv") if node.name not in in_float]
    sums = [found for found in _integer_sums(graph, integer) if found.node.name not in keep_float]
    tensors = dict.fromkeys([*(node.input[0] for node in integer), *(found.residual for found in sums)])
    storages = _storages(graph, tensors, range_of)
    for node in integer:
        stored, scales = symmetric_weights(graph.floats(node.input[1]), LIMIT)
        node.input[1] = store_constant(graph, node.input[1], stored, scales)
    insert_pairs(graph, storages, readers=[*integer, *(found.node for found in sums)])
    return graph.finish()


def float_layers_for_tensorrt(graph: Graph, *, int8_heads: bool = False) -> dict[str, str]:
    """The convolutions that stay float, by the names of their outputs, and why; all others become int8."""
    heads = set() if int8_heads else _head_convolutions(graph)
    reasons = {node.name: _why_float(graph, node, heads) for node in graph.of("Conv")}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _head_convolutions(graph: Graph) -> set[str]:
    """Names of the convolutions that boxes or scores alone depend on, or that no convolution follows.

    What both depend on belongs to the backbone, whatever the exporter calls it.
    """
    if graph.outputs != {"boxes", "scores"}:
        return set()
    ends: dict[str, set[str]] = {name: {name} for name in graph.outputs}
    followed: set[str] = set()
    heads = set()
    for node in reversed(graph.nodes):
        of_node = set().union(*(ends.get(name, ()) for name in node.output))
        behind = not followed.isdisjoint(node.output)
        if node.op_type == "Conv" and (len(of_node) == 1 or not behind):
            heads.add(node.name)
        for name in node.input:
            ends.setdefault(name, set()).update(of_node)
            if behind or node.op_type == "Conv":
                followed.add(name)
    return heads


def _why_float(graph: Graph, node: onnx.NodeProto, heads: Collection[str]) -> str | None:
    """Why a convolution stays float; None where it becomes int8."""
    if node.name in heads:
        return OF_THE_HEADS
    if graph.is_depthwise(node):
        return DEPTHWISE
    one_value_per_channel = graph.values(node.output[0]) <= graph.constants[node.input[1]].dims[0]
    return ONE_VALUE if one_value_per_channel else None


def _integer_sums(graph: Graph, integer: Sequence[onnx.NodeProto]) -> list[ResidualSum]:
    """Residual sums that fuse into an int8 convolution and that another int8 convolution reads."""
    names = {node.name for node in integer}
    read = graph.back_through(BEFORE_Q, (node.input[0] for node in integer))
    return [found for found in residual_sums(graph) if found.branch.name in names and found.node.output[0] in read]


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
