"""Q/DQ where ONNX Runtime's CPU kernels want it: uint8 activations, int8 weights, int32 bias.

ONNX Runtime turns DequantizeLinear → operator → QuantizeLinear into one integer kernel (QLinearConv, QLinearAdd, …;
onnxruntime.ai/docs/performance/model-optimizations/quantization.html). What is placed here follows from what those
kernels are good at:

- The first layers of a light network move many bytes and multiply little; the float kernels, in their blocked layout,
  are faster there. `_float_beginning` says up to where, behind a block where little crosses to the integer side.
- Hardswish has no integer kernel. As a product it has: for x ≥ −3 it is x · min(x + 3, 6) / 6, and where x is stored
  with scale 3/k and zero point k, the same bytes read with scale 1/2k and zero point 0 *are* (x + 3) / 6.
- The kernel for 3×3 convolutions wants input channels by fours: the normalisation of the image becomes an integer 1×1
  convolution from three channels to four. Where the first convolution stays float, the image's bytes are read with the
  mean as zero point, and what the mean has behind the decimal point goes into the bias: only the padding notices.
- Hardsigmoid is what storing x + 3 from 0 to 6 does: those bytes read with scale 1/255 are clip((x + 3) / 6, 0, 1).
- The mean of a feature map has an integer kernel under the name GlobalAveragePool.
- Processors without VNNI add two products of uint8 and int8 in 16 bits, and saturate; weights of 7 bits cannot. A file
  then detects the same on every processor.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from ssd_edge.calib.placement.graph import Graph, RangeOf
from ssd_edge.calib.placement.qdq import Storage, dequantize, insert_pairs, quantized, store_constant, symmetric_weights
from ssd_edge.onnx_graph import node_attribute

LEVELS = 255  # of uint8
WEIGHT_LIMIT = 64  # 7 bits: two products of 255 · 64 fit into 16 bits
FASTER_IN_FLOAT = "at the beginning, where float kernels are faster"  # why a convolution stays float
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
BOUNDARY_NS = 1.0  # a value that crosses from float to integer kernels: out of the blocked layout, stored, transposed


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


def float_layers_for_cpu(graph: Graph) -> dict[str, str]:
    """The convolutions that stay float, by the names of their outputs, and why; all others become integer."""
    beginning = graph.of("Conv")[: _float_beginning(graph)]
    return dict.fromkeys((node.name for node in beginning), FASTER_IN_FLOAT)


def uint8_storage(low: float, high: float) -> Storage:
    """What covers a range with 0 in it, 0 being stored exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / LEVELS or 1.0
    return Storage(scale, np.uint8(round(-low / scale)))


class _Placement:
    def __init__(self, graph: Graph, range_of: RangeOf, keep_float: frozenset[str]) -> None:
        self.graph, self.range_of, self.keep_float = graph, range_of, keep_float
        self.storages: dict[str, Storage] = {}  # of the tensors that are stored as integers
        self.made_of_bytes: set[str] = set()  # those of them that are another one's bytes, read with other numbers

    def run(self) -> None:
        graph = self.graph
        _pool_by_name(graph)
        in_float = {*float_layers_for_cpu(graph), *self.keep_float}
        convolutions = graph.of("Conv")
        integer = [node for node in convolutions if node.name not in in_float]
        if convolutions:
            first = convolutions[0]
            integer += self._normalise(first, in_integers=first in integer)
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
        pairs = {tensor: storage for tensor, storage in self.storages.items() if tensor not in self.made_of_bytes}
        insert_pairs(graph, pairs, readers=graph.nodes)

    def _normalise(self, first: onnx.NodeProto, *, in_integers: bool) -> list[onnx.NodeProto]:
        """Write the image's normalisation as `first`, the convolution that reads it, is faster with.

        Returns:
            Convolutions that became integer by it.
        """
        graph, normalised = self.graph, first.input[0]
        steps = _normalisation(graph, first)
        if not steps:
            return []
        cast, transpose, *arithmetic = steps
        constants = {step.op_type: graph.floats(step.input[1]).reshape(-1) for step in arithmetic}
        mean, std = np.broadcast_to(constants["Sub"], 3), np.broadcast_to(constants.get("Div", 1.0), 3)
        if in_integers:
            weights, bias = np.zeros((4, 3, 1, 1)), np.zeros(4)
            weights[:3, :, 0, 0], bias[:3] = np.diag(1 / std), -mean / std
            inputs = [transpose.output[0], self._constant("normalise", weights), self._constant("minus_mean", bias)]
            made = [graph.node("Conv", inputs, normalised, kernel_shape=[1, 1])]
            wide = np.pad(graph.floats(first.input[1]), ((0, 0), (0, 1), (0, 0), (0, 0)))
            first.input[1] = self._constant(f"{first.input[1]}_wide", wide)
            storage = Storage(1.0, np.uint8(0))
        elif len(first.input) > 2 and len({*zip(mean, std, strict=True)}) == 1:
            made = []
            storage = Storage(1 / std[0], np.uint8(np.rint(mean[0]).clip(0, LEVELS)))
            rest = (storage.zero_point - mean[0]) / std[0]
            bias = graph.floats(first.input[2]) + rest * graph.floats(first.input[1]).sum((1, 2, 3))
            first.input[0] = transpose.output[0]
            first.input[2] = self._constant(f"{first.input[2]}_shifted", bias)
        else:
            return []
        index = graph.nodes.index(arithmetic[0])
        graph.nodes[index : index + len(arithmetic)] = made
        self._read_bytes(cast, cast.input[0], storage)
        self._store(transpose.output[0], storage)
        self.made_of_bytes.add(transpose.output[0])
        return made

    def _constant(self, wish: str, value: NDArray[np.float64]) -> str:
        return self.graph.add_constant(wish, value.astype(np.float32))

    def _read_bytes(self, node: onnx.NodeProto, stored: str, storage: Storage) -> None:
        """Replace a node by the bytes of another tensor, read with these numbers."""
        tensor = node.output[0]
        self._store(tensor, storage)
        self.made_of_bytes.add(tensor)
        self.graph.nodes[self.graph.nodes.index(node)] = dequantize(self.graph, stored, tensor, storage)
        self.graph.reindex()

    def _store(self, tensor: str, storage: Storage | None = None) -> None:
        if tensor not in self.storages:
            self.storages[tensor] = storage or uint8_storage(*self._range(tensor))

    def _range(self, tensor: str) -> tuple[float, float]:
        if tensor in self.graph.constants:  # one factor per channel, say
            values = self.graph.floats(tensor)
            return float(values.min()), float(values.max())
        return self.range_of(tensor)

    def _store_result(self, node: onnx.NodeProto) -> None:
        """What an integer convolution stores: the result of the activation behind it, where storing includes that."""
        follower = self.graph.only_reader(node.output[0])
        if follower is not None and follower.op_type in ("Relu", "Clip"):
            self._store(follower.output[0])
        elif follower is not None and follower.op_type == "HardSwish" and follower.name not in self.keep_float:
            self._hardswish_by_product(follower)
        elif (
            follower is not None
            and follower.op_type == "HardSigmoid"
            and follower.name not in self.keep_float
            and len(node.input) > 2
        ):
            self._hardsigmoid_by_storing(node, follower)
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

    def _hardsigmoid_by_storing(self, convolution: onnx.NodeProto, node: onnx.NodeProto) -> None:
        """Shift a convolution's result so that what storing it clips, and nothing else, is what hardsigmoid clips."""
        graph, tensor = self.graph, node.input[0]
        alpha, beta = (np.asarray(node_attribute(node, name, 0.0)).item() for name in ("alpha", "beta"))
        bias = graph.floats(convolution.input[2]) + beta / alpha
        convolution.input[2] = self._constant(f"{convolution.input[2]}_shifted", bias)
        self._store(tensor, Storage(1 / (alpha * LEVELS), np.uint8(0)))
        self._read_bytes(node, quantized(tensor), Storage(1 / LEVELS, np.uint8(0)))

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


def _normalisation(graph: Graph, convolution: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Cast, Transpose, Sub and perhaps Div, from the bytes of the image to the one convolution that reads it; or []."""
    steps: list[onnx.NodeProto] = []
    reader = convolution
    for op_type in ("Div", "Sub", "Transpose", "Cast"):
        maker = graph.producer.get(reader.input[0])
        if maker is not None and maker.op_type == op_type and graph.only_reader(maker.output[0]) is reader:
            steps.insert(0, maker)
            reader = maker
        elif op_type != "Div":
            return []
    return steps if all(step.input[1] in graph.constants for step in steps[2:]) else []


def _pool_by_name(graph: Graph) -> None:
    """Name the mean over rows and columns as the integer kernel is named."""
    for index, node in enumerate(graph.nodes):
        if node.op_type != "ReduceMean" or len(node.input) < 2 or node.input[1] not in graph.constants:
            continue
        axes = sorted(int(axis) % 4 for axis in np.atleast_1d(graph.array(node.input[1])))
        if axes == [2, 3] and node_attribute(node, "keepdims", 1) == 1:
            graph.nodes[index] = graph.node("GlobalAveragePool", node.input[:1], node.output[0])
    graph.reindex()


def _float_beginning(graph: Graph) -> int:
    """How many convolutions at the beginning are faster in float, taken together with what crosses the boundary."""
    convolutions = graph.of("Conv")
    gains = [_gain_ns(graph, node) for node in convolutions]
    lost = np.concatenate([[0.0], np.cumsum(gains)])  # [convolutions + 1]: by leaving the first ones float
    position = {node.name: index for index, node in enumerate(graph.nodes)}
    starts = [position[node.name] for node in convolutions]
    crossing = [_values_crossing(graph, position, start) for start in starts]
    lost[1:-1] += BOUNDARY_NS * np.array(crossing[1:])  # all integer, or nothing: no boundary
    return int(lost.argmin())


def _values_crossing(graph: Graph, position: Mapping[str, int], start: int) -> int:
    """Values that nodes before a position make and nodes from there on read."""
    return sum(
        graph.values(tensor)
        for tensor, maker in graph.producer.items()
        if position[maker.name] < start and any(position[node.name] >= start for node in graph.readers[tensor])
    )


def _gain_ns(graph: Graph, node: onnx.NodeProto) -> float:
    """Time that integers save in a convolution."""
    products = int(np.prod(graph.constants[node.input[1]].dims[1:]))  # a value
    depthwise = node_attribute(node, "group", 1) == graph.constants[node.input[1]].dims[0]
    in_float = products * (FLOAT_DEPTHWISE_NS if depthwise else FLOAT_NS)
    in_integers = products * (INTEGER_DEPTHWISE_NS if depthwise else INTEGER_NS) + INTEGER_VALUE_NS
    return graph.values(node.output[0]) * (in_float - in_integers)
