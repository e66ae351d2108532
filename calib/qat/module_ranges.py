"""What ONNX files say of layers, under the names that these have in PyTorch: ranges, and which ones stay float."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from ssd_edge.calib.placement.graph import Graph
from ssd_edge.calib.placement.residual import residual_sums
from ssd_edge.calib.qat.fake_quant import OUTPUT, SUM
from ssd_edge.onnx_graph import GraphIndex

# Around a layer's name in that of its weight; `Predictor` holds the SSD as `model`.
PREFIX, SUFFIX = "model.", ".weight"


def module_ranges(
    graph: onnx.ModelProto, tensor_ranges: Mapping[str, tuple[float, float]]
) -> dict[str, tuple[float, float]]:
    """Ranges for `fake_quant.FakeQuantization.set_ranges`, of those convolutions whose tensors have some.

    Args:
        graph: the fp32 file that `export_onnx` wrote, loaded.
        tensor_ranges: (low, high) by tensor name.
    """
    tensors: dict[str, str] = {}
    for layer, node in _convolutions(graph).items():
        tensors |= {layer: node.input[0], layer + OUTPUT: node.output[0]}
    return {name: tensor_ranges[tensor] for name, tensor in tensors.items() if tensor in tensor_ranges}


def float_layers(fp32: onnx.ModelProto, int8: onnx.ModelProto) -> set[str]:
    """The convolutions and residual additions that stay float in an int8 file, for `fake_quant.FakeQuantization`.

    Args:
        fp32: as `export_onnx` wrote it.
        int8: made of it; in front of the weights of its integer convolutions is a DequantizeLinear.
    """
    index = GraphIndex(int8.graph)
    dequantised = {node.output[0] for node in index.of("DequantizeLinear")}
    integer = {node.output[0] for node in index.of("Conv") if node.input[1] in dequantised}
    fused = {node.output[0] for node in index.of("Add") if dequantised & set(node.input)}
    layers = _convolutions(fp32)
    ends = {node.output[0]: layer for layer, node in layers.items()}
    return {layer for layer, node in layers.items() if node.output[0] not in integer} | {
        ends[found.branch.output[0]] + SUM
        for found in residual_sums(Graph(fp32))
        if found.branch.output[0] in ends and found.node.output[0] not in fused
    }


def _convolutions(graph: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """The convolutions that came from PyTorch's, by the names of these."""
    return {
        node.input[1].removeprefix(PREFIX).removesuffix(SUFFIX): node
        for node in graph.graph.node
        if node.op_type == "Conv" and node.input[1].startswith(PREFIX) and node.input[1].endswith(SUFFIX)
    }
