"""QuantizeLinear and DequantizeLinear around tensors of a graph: the writing that both placements share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from ssd_edge.calib.placement.graph import Graph


class Storage(NamedTuple):
    """How a float tensor is stored: real = (stored − zero_point) · scale.

    `zero_point` is an np.uint8 or np.int8; its type is that of the stored values.
    """

    scale: float
    zero_point: np.uint8 | np.int8


def quantized(name: str) -> str:
    """Name of a tensor's stored values."""
    return f"{name}_quantized"


def symmetric_weights(weights: NDArray[np.floating], limit: int) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """Weights [out, …] as int8 from −limit to limit, with one scale an output channel: [out, …] and [out]."""
    largest = np.abs(weights.astype(np.float64)).max(axis=tuple(range(1, weights.ndim)))
    scales = np.where(largest > 0, largest, 1.0) / limit
    return np.rint(weights / scales.reshape(-1, *[1] * (weights.ndim - 1))).astype(np.int8), scales


def store_constant(graph: Graph, name: str, stored: NDArray[np.integer], scales: NDArray[np.float64]) -> str:
    """Add integers for a constant, one scale for each entry along the first axis; the name of their float values."""
    inputs = [
        graph.add_constant(quantized(name), stored),
        graph.add_constant(f"{name}_scale", scales.astype(np.float32)),
        graph.add_constant(f"{name}_zero_point", np.zeros(len(scales), stored.dtype)),
    ]
    output = graph.new_name(f"{name}_dequantized")
    graph.nodes.append(graph.node("DequantizeLinear", inputs, output, axis=0))
    return output


def dequantize(graph: Graph, stored: str, output: str, storage: Storage) -> onnx.NodeProto:
    """A node that gives back the float values."""
    return graph.node("DequantizeLinear", [stored, *_parameters(graph, output, storage)], output)


def insert_pairs(graph: Graph, storages: Mapping[str, Storage], *, readers: Iterable[onnx.NodeProto]) -> None:
    """Let these nodes read these tensors through QuantizeLinear and DequantizeLinear."""
    for node in readers:
        for index, name in enumerate(node.input):
            if name in storages:
                node.input[index] = f"{name}_dequantized"
    for tensor, storage in storages.items():
        graph.nodes += [
            graph.node("QuantizeLinear", [tensor, *_parameters(graph, tensor, storage)], quantized(tensor)),
            dequantize(graph, quantized(tensor), f"{tensor}_dequantized", storage),
        ]


def _parameters(graph: Graph, name: str, storage: Storage) -> tuple[str, str]:
    """Names of constants for the scale and the zero point."""
    return (
        graph.add_constant(f"{name}_scale", np.array(storage.scale, np.float32)),
        graph.add_constant(f"{name}_zero_point", np.array(storage.zero_point)),
    )
