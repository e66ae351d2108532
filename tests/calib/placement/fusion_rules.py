"""What keeps TensorRT from fusing or from running int8 kernels, found in a placed graph. Each rule names its source.

Sources: "guide" is "Working with Quantized Types" in NVIDIA's TensorRT documentation, above all its section "Q/DQ
Layer-Placement Recommendations"; "ModelOpt" is NVIDIA's TensorRT Model Optimizer, modelopt/onnx/quantization.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx

from ssd_edge.calib.placement.graph import Graph
from ssd_edge.onnx_graph import node_attribute

ACTIVATIONS = ("Relu", "Clip", "HardSwish", "HardSigmoid", "Sigmoid")
Q, DQ = "QuantizeLinear", "DequantizeLinear"


class PairedGraph(Graph):
    """A graph with pairs."""

    def is_int8(self, convolution: onnx.NodeProto) -> bool:
        """Whether it reads int8 weights."""
        return self.made_by(convolution.input[1], DQ)

    def weights(self, convolution: onnx.NodeProto) -> str:
        """Name of the constant that the weights are stored in."""
        name = convolution.input[1]
        return str(self.producer[name].input[0] if name in self.producer else name)

    def fusible_branch(self, tensor: str) -> bool:
        """Whether an int8 convolution alone makes a tensor, for one reader; a ReLU may be in between."""
        if self.only_reader(tensor) is None:
            return False
        node = self.producer.get(tensor)
        if node is not None and node.op_type == "Relu" and self.only_reader(node.input[0]) is not None:
            node = self.producer.get(node.input[0])
        return node is not None and node.op_type == "Conv" and self.is_int8(node)

    def is_int8_sum(self, node: onnx.NodeProto) -> bool:
        """Whether an Add reads one input through a pair and fuses into the convolution of the other."""
        through_pair = [self.made_by(name, DQ) for name in node.input]
        branches = [name for name, pair in zip(node.input, through_pair, strict=True) if not pair]
        return len(branches) == 1 and self.fusible_branch(branches[0])


def inputs_of_convolutions(graph: PairedGraph) -> Iterator[str]:
    """Guide: "Quantize all inputs of weighted operations"; DQ on the data and on the weights, or on neither."""
    for node in graph.of("Conv"):
        if graph.made_by(node.input[0], DQ) != graph.is_int8(node):
            yield node.name


def depthwise_in_int8(graph: PairedGraph) -> Iterator[str]:
    """NVIDIA/TensorRT#3385 and #4060: no int8 kernel for a depthwise convolution with a generic activation."""
    for node in graph.of("Conv"):
        depthwise = node_attribute(node, "group", 1) != 1 and graph.constants[graph.weights(node)].dims[1] == 1
        if depthwise and (graph.is_int8(node) or graph.made_by(node.input[0], DQ)):
            yield node.name


def asymmetric_or_wrong_scales(graph: PairedGraph) -> Iterator[str]:
    """Guide: symmetric int8; one scale per tensor for activations, one per output channel for weights."""
    for node in (*graph.of(Q), *graph.of(DQ)):
        scale, zero_point = graph.array(node.input[1]), graph.array(node.input[2])
        channels = (graph.constants[node.input[0]].dims[0],) if node.input[0] in graph.constants else ()
        axis = node_attribute(node, "axis", 1)
        fits = scale.shape == channels and (not channels or axis == 0)
        if zero_point.dtype != np.int8 or zero_point.any() or not (scale > 0).all() or not fits:
            yield node.name


def quantised_bias(graph: PairedGraph) -> Iterator[str]:
    """Guide: bias is not quantised; TensorRT's int8 convolution adds it in float."""
    for node in graph.of("Conv"):
        if len(node.input) > 2 and node.input[2] not in graph.constants:
            yield node.name


def pair_before_activation(graph: PairedGraph) -> Iterator[str]:
    """Guide: "Do not quantize the outputs of weighted operations"; convolution and activation fuse, Q comes behind."""
    for node in graph.nodes:
        if node.op_type in ACTIVATIONS and graph.made_by(node.input[0], DQ):
            yield node.name


def pair_on_branch(graph: PairedGraph) -> Iterator[str]:
    """Guide: "Quantize the residual input in skip connections"; ModelOpt, `build_non_residual_input_map`: it alone."""
    for node in graph.of("Add"):
        if any(graph.made_by(name, DQ) for name in node.input) and not graph.is_int8_sum(node):
            yield node.name


def float_residual(graph: PairedGraph) -> Iterator[str]:
    """Guide, the same place: with a float residual "the trailing Q-layer cannot be fused with the convolution"."""
    for node in graph.of("Add"):
        computed = all(name in graph.producer for name in node.input) and node.input[0] != node.input[1]
        result, behind = node.output[0], graph.only_reader(node.output[0])
        while behind is not None and behind.op_type in (*ACTIVATIONS, "MaxPool"):
            result, behind = behind.output[0], graph.only_reader(behind.output[0])
        trailing = any(reader.op_type == Q for reader in graph.readers[result])
        in_float = computed and not any(graph.made_by(name, DQ) for name in node.input)
        if in_float and trailing and any(map(graph.fusible_branch, node.input)):
            yield node.name


def scales_around_pooling(graph: PairedGraph) -> Iterator[str]:
    """Guide: Q and DQ move across what commutes with them; with two scales, pooling or Concat would rescale."""
    scale_of = {node.input[0]: float(graph.array(node.input[1])) for node in graph.of(Q)}
    stored = [node for node in graph.of(DQ) if node.input[0] not in graph.constants]
    scale_of |= {node.output[0]: float(graph.array(node.input[1])) for node in stored}
    for node in (*graph.of("MaxPool"), *graph.of("Concat")):
        scales = {scale_of[name] for name in (*node.input, *node.output) if name in scale_of}
        if len(scales) > 1:
            yield node.name


def pair_without_int8_reader(graph: PairedGraph) -> Iterator[str]:
    """Guide: "Be conservative when adding Q/DQ layers"; a pair that only float layers read costs a kernel."""
    for node in graph.of(Q):
        pairs = [reader.output[0] for reader in graph.readers[node.output[0]]]
        readers = [reader for pair in pairs for reader in graph.readers[pair]]
        if not any(graph.is_int8(r) if r.op_type == "Conv" else graph.is_int8_sum(r) for r in readers):
            yield node.name


RULES: tuple[Callable[[PairedGraph], Iterator[str]], ...] = (
    inputs_of_convolutions,
    depthwise_in_int8,
    asymmetric_or_wrong_scales,
    quantised_bias,
    pair_before_activation,
    pair_on_branch,
    float_residual,
    scales_around_pooling,
    pair_without_int8_reader,
)


def broken_rules(model: onnx.ModelProto) -> dict[str, list[str]]:
    """The rules that a float32 graph with pairs breaks, each with the nodes where it does."""
    graph = PairedGraph(model)
    found = {rule.__name__: list(rule(graph)) for rule in RULES}
    return {name: nodes for name, nodes in found.items() if nodes}
