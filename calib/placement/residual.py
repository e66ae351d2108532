"""Residual sums: which input is the convolution branch and which one is the shortcut that skips it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import onnx

from ssd_edge.calib.placement.graph import Graph


@dataclass(frozen=True)
class ResidualSum:
    """An Add that TensorRT can fuse into the convolution of its branch.

    Attributes:
        node: the Add.
        branch: the convolution that ends the branch; only the sum reads its result, perhaps behind a ReLU.
        residual: tensor that enters the sum from the shortcut: the block's input, or what a convolution made of it.
    """

    node: onnx.NodeProto
    branch: onnx.NodeProto
    residual: str


def residual_sums(graph: Graph) -> list[ResidualSum]:
    """The residual sums of a float graph, in graph order.

    A residual sum adds two feature maps of the same size. One of them comes from a convolution that nothing else reads:
    the branch. Where both do (the shortcut of a ResNet block with another number of channels is a convolution too), the
    branch is the longer path from their nearest common ancestor, and the second input where both are equally long, as
    in `build_non_residual_input_map` of NVIDIA's TensorRT Model Optimizer (modelopt/onnx/quantization).
    """
    found = []
    for node in graph.of("Add"):
        if not _adds_feature_maps(graph, node):
            continue
        first, second = (_branch_end(graph, name) for name in node.input)
        if first is not None and second is not None:
            first_is_longer = _longer_first(graph, node.input[0], node.input[1])
            first, second = (first, None) if first_is_longer else (None, second)
        if first is not None:
            found.append(ResidualSum(node, first, node.input[1]))
        elif second is not None:
            found.append(ResidualSum(node, second, node.input[0]))
    return found


def _adds_feature_maps(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether both inputs are computed and have the same size."""
    first, second = node.input
    computed = first in graph.producer and second in graph.producer
    return computed and first != second and graph.values(first) == graph.values(second) > 0


def _branch_end(graph: Graph, tensor: str) -> onnx.NodeProto | None:
    """The convolution that made a tensor, directly or before a ReLU, if nothing else reads what it made."""
    node = graph.producer[tensor]
    if node.op_type == "Relu" and graph.only_reader(tensor) is not None:
        tensor = node.input[0]
        node = graph.producer.get(tensor, node)
    return node if node.op_type == "Conv" and graph.only_reader(tensor) is not None else None


def _longer_first(graph: Graph, first: str, second: str) -> bool:
    """Whether the first tensor is further from the nearest common ancestor of the two."""
    to_first, to_second = _distances(graph, first), _distances(graph, second)
    common = [name for name in to_first if name in to_second]
    if not common:
        return False
    nearest = min(common, key=lambda name: to_first[name] + to_second[name])
    return to_first[nearest] > to_second[nearest]


def _distances(graph: Graph, tensor: str) -> dict[str, int]:
    """How many nodes are between a tensor and each tensor that it is computed from, by the shortest way."""
    distances = {tensor: 0}
    waiting = deque([tensor])
    while waiting:
        name = waiting.popleft()
        if name in graph.producer:
            for source in graph.producer[name].input:
                if source and source not in graph.constants and source not in distances:
                    distances[source] = distances[name] + 1
                    waiting.append(source)
    return distances
