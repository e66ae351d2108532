"""Q/DQ where ONNX Runtime's CPU kernels want it: uint8 activations, int8 weights, int32 bias.

ONNX Runtime turns DequantizeLinear → operator → QuantizeLinear into one integer kernel (QLinearConv, QLinearAdd, …;
onnxruntime.ai/docs/performance/model-optimizations/quantization.html). What is placed here follows from what those
kernels are good at:

- The first layers of a light network move many bytes and multiply little; the float kernels, in their blocked layout,
  are faster there. `_float_beginning` says up to where.
- Hardswish has no integer kernel. As a product it has: for x ≥ −3 it is x · min(x + 3, 6) / 6, and where x is stored
  with scale 3/k and zero point k, the same bytes read with scale 1/2k and zero point 0 *are* (x + 3) / 6.
- The mean of a feature map has an integer kernel under the name GlobalAveragePool.
- Processors without VNNI add two products of uint8 and int8 in 16 bits, and saturate; weights of 7 bits cannot. A file
  then detects the same on every processor.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import onnx

from ssd_edge.calib.graph import Graph, RangeOf
from ssd_edge.calib.qdq import Storage, dequantize, insert_pairs, quantized, store_constant, symmetric_weights

LEVELS = 255  # of uint8
WEIGHT_LIMIT = 64  # 7 bits: two products of 255 · 64 fit into 16 bits
HARDSWISH_END = 3.0  # hardswish is 0 below −3
# Operators that have an integer kernel, and are integer where all that they read is
FOLLOWERS = ("Add", "Mul", "MaxPool", "GlobalAveragePool")
SMALL = 16  # times fewer values: storing them costs nothing beside one float operation on the others
# Nanoseconds a value of a convolution's output, measured on one core with AVX2; only their ratios matter.
FLOAT_NS = 1 / 40  # a product
FLOAT_DEPTHWISE_NS = 1 / 23
INTEGER_NS = 1 / 90
INTEGER_DEPTHWISE_NS = 1 / 10
INTEGER_VALUE_NS = 0.25  # rounding and storing the value


def place_for_cpu(model: onnx.ModelProto, range_of: RangeOf, *, keep_float: Collection[str] = ()) -> onnx.ModelProto:
    """Write Q/DQ pairs into a float graph for ONNX Runtime's CPU kernels.

    Args:
        model: as `onnx_from_predictor` gives it.
        range_of: lowest and highest value of an activation tensor.
        keep_float: names of the outputs of nodes that stay float.

    Returns:
        A new model with the same inputs and outputs.
    """
    placement = _Placement(Graph(model), range_of, frozenset(keep_float))
    placement.run()
    return placement.graph.finish()


def layers_for_cpu(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The convolutions that become integer, in graph order."""
    return _integer_convolutions(Graph(model))


def _integer_convolutions(graph: Graph) -> list[onnx.NodeProto]:
    convolutions = [node for node in graph.nodes if node.op_type == "Conv"]
    return convolutions[_float_beginning(graph, convolutions) :]


def uint8_storage(low: float, high: float) -> Storage:
    """What covers a range with 0 in it, 0 being stored exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / LEVELS or 1.0
    return Storage(scale, np.uint8(round(-low / scale)))


class _Placement:
    def __init__(self, graph: Graph, range_of: RangeOf, keep_float: frozenset[str]) -> None:
        self.graph, self.range_of, self.keep_float = graph, range_of, keep_float
        self.storages: dict[str, Storage] = {}  # of the tensors that are stored as integers

    def run(self) -> None:
        graph = self.graph
        _pool_by_name(graph)
        integer = [node for node in _integer_convolutions(graph) if node.name not in self.keep_float]
        names = {node.name for node in integer}
        read = {node.input[0] for node in integer}
        for tensor in read - set(graph.producer):  # the model's input
            self._store(tensor)
        for node in list(graph.nodes):  # in topological order
            if node.name in names:
                self._store_result(node)
            elif node.op_type in FOLLOWERS and node.name not in self.keep_float:
                self._follow(node)
            if node.output[0] in read:
                self._store(node.output[0])
        for node in integer:
            self._quantize_constants(node)
        # All nodes read them: a kernel that stores integers has no float output.
        insert_pairs(graph, self.storages, readers=graph.nodes)

    def _store(self, tensor: str, storage: Storage | None = None) -> None:
        self.storages.setdefault(tensor, storage or uint8_storage(*self.range_of(tensor)))

    def _store_result(self, node: onnx.NodeProto) -> None:
        """What an integer convolution stores: the result of the activation behind it, where storing includes that."""
        follower = self.graph.only_reader(node.output[0])
        if follower is not None and follower.op_type in ("Relu", "Clip"):
            self._store(follower.output[0])
        elif follower is not None and follower.op_type == "HardSwish" and follower.name not in self.keep_float:
            self._hardswish_by_product(follower)
        else:
            self._store(node.output[0])

    def _follow(self, node: onnx.NodeProto) -> None:
        """Make an operator integer where all its inputs are, or the one that is not is small: it becomes so."""
        small = [name for name in node.input if name not in self.storages]
        largest = max(self.graph.values(name) for name in node.input)
        if len(small) == 1 < len(node.input) and 0 < SMALL * self.graph.values(small[0]) <= largest:
            self._store(small[0])
        if all(name in self.storages for name in node.input):
            # The largest of some stored values is one of them.
            self._store(node.output[0], self.storages[node.input[0]] if node.op_type == "MaxPool" else None)

    def _hardswish_by_product(self, node: onnx.NodeProto) -> None:
        """Replace a hardswish by the product of its input, stored from −3 on, with min(input + 3, 6) / 6."""
        graph, tensor, output = self.graph, node.input[0], node.output[0]
        _, high = self.range_of(tensor)
        k = int(HARDSWISH_END * LEVELS / (max(high, 0.0) + HARDSWISH_END))  # levels from −3 to 0
        self._store(output)
        if k < 1 or tensor in self.storages:  # a range of hundreds, or one that others have fixed: computed in float
            self._store(tensor)
            return
        self._store(tensor, Storage(HARDSWISH_END / k, np.uint8(k)))
        top = graph.add_constant(f"{tensor}_gate_top", np.array(min(2 * k, LEVELS), np.uint8))
        stored, gate = f"{tensor}_gate_quantized", f"{tensor}_gate"
        index = graph.nodes.index(node)
        graph.nodes[index : index + 1] = [
            graph.node("Clip", [quantized(tensor), "", top], stored),
            dequantize(graph, stored, gate, Storage(1 / (2 * k), np.uint8(0))),
            graph.node("Mul", [tensor, gate], output),
        ]
        graph.reindex()

    def _quantize_constants(self, node: onnx.NodeProto) -> None:
        """Weights as int8, one scale an output channel; the bias as int32 in units of one product."""
        graph = self.graph
        weights, scales = symmetric_weights(graph.floats(node.input[1]), WEIGHT_LIMIT)
        node.input[1] = store_constant(graph, node.input[1], weights, scales)
        if len(node.input) > 2:
            units = self.storages[node.input[0]].scale * scales  # [out]
            bounds = np.iinfo(np.int32)
            bias = np.rint(graph.floats(node.input[2]) / units).clip(bounds.min, bounds.max).astype(np.int32)
            node.input[2] = store_constant(graph, node.input[2], bias, units)


def _pool_by_name(graph: Graph) -> None:
    """Name the mean over rows and columns as the integer kernel is named."""
    for index, node in enumerate(graph.nodes):
        if node.op_type != "ReduceMean" or len(node.input) < 2 or node.input[1] not in graph.constants:
            continue
        axes = sorted(int(axis) % 4 for axis in np.atleast_1d(graph.array(node.input[1])))
        if axes == [2, 3] and graph.attribute(node, "keepdims", 1) == 1:
            graph.nodes[index] = graph.node("GlobalAveragePool", node.input[:1], node.output[0])
    graph.reindex()


def _float_beginning(graph: Graph, convolutions: Sequence[onnx.NodeProto]) -> int:
    """How many convolutions at the beginning are faster in float, taken together."""
    gains = [_gain_ns(graph, node) for node in convolutions]
    lost = np.concatenate([[0.0], -np.cumsum(gains)])  # [convolutions + 1]: time saved by leaving the first ones float
    return int(lost.argmax())


def _gain_ns(graph: Graph, node: onnx.NodeProto) -> float:
    """Time that integers save in a convolution."""
    products = int(np.prod(graph.constants[node.input[1]].dims[1:]))  # a value
    depthwise = graph.attribute(node, "group", 1) == graph.constants[node.input[1]].dims[0]
    in_float = products * (FLOAT_DEPTHWISE_NS if depthwise else FLOAT_NS)
    in_integers = products * (INTEGER_DEPTHWISE_NS if depthwise else INTEGER_NS) + INTEGER_VALUE_NS
    return graph.values(node.output[0]) * (in_float - in_integers)
