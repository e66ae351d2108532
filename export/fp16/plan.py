"""Which tensors of a graph become half, and which stay float."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from ssd_edge.errors import ModelFileError, UsageError
from ssd_edge.onnx_graph import GraphIndex, element_types

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
HALF_MAX = 65504.0
LARGEST_WEIGHT_ERROR = 2.0**-9  # of a tensor's norm; half rounds to 2**-12 of it unless most of it is subnormal
# All float inputs and outputs of these are of one type, and half does them no harm. All others stay in float32.
_HALF_OPERATORS = """
Add AveragePool Clip Concat Conv ConvTranspose DepthToSpace Div Dropout Elu Expand Flatten Gather Gemm HardSigmoid
HardSwish Identity LeakyRelu MatMul Max MaxPool Min Mul Neg PRelu Pad Relu Reshape Sigmoid Slice Split Squeeze Sub Tanh
Tile Transpose Unsqueeze
"""
HALF_OPERATORS = frozenset(_HALF_OPERATORS.split())
NORMALISATION = frozenset(("Add", "Cast", "Div", "Mul", "Sub", "Transpose"))
WEIGHTED = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))
# What passes the results of the last convolutions on as they are, up to the concatenation of all levels.
MOVING = frozenset(("Concat", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"))
# torch.nn.functional.normalize; amdegroot/ssd.pytorch, with an Add for the Clip; Caffe, with √(|x|² + ε). Div ends it.
L2_NORM = frozenset(("Add", "Clip", "Div", "Expand", "Mul", "ReduceL2", "Sqrt"))
TYPE_FREE = frozenset(("Shape", "Size"))  # look at no value
QUANTISE, DEQUANTISE = "QuantizeLinear", "DequantizeLinear"


@dataclass(frozen=True)
class Plan:
    """A graph without Constant nodes, and which of its nodes stay float32.

    Attributes:
        index: of the graph.
        types: element type of every tensor.
        float_nodes: first outputs of the nodes that stay float32, or whose types are not theirs to choose.
        lossy: labels of nodes that are among them for their weights, and why.
    """

    model: onnx.ModelProto
    index: GraphIndex
    types: dict[str, int]
    float_nodes: frozenset[str]
    lossy: Mapping[str, str]

    def is_half(self, node: onnx.NodeProto) -> bool:
        """Whether it computes in half."""
        named = (*node.input, *node.output)
        has_float = any(self.types[name] == FLOAT for name in named)
        return node.op_type in HALF_OPERATORS and has_float and node.output[0] not in self.float_nodes

    def maker(self, tensor: str) -> str:
        """The description of the node that makes a tensor."""
        return described(self.index.producer[tensor], self.index.constants)

    def half_neighbours(self) -> dict[str, list[onnx.NodeProto]]:
        """The half nodes that make or take each float tensor."""
        found: dict[str, list[onnx.NodeProto]] = {}
        for node in filter(self.is_half, self.index.nodes):
            for name in (*node.input, *node.output):
                if self.types[name] == FLOAT:
                    found.setdefault(name, []).append(node)
        return found


def plan_halves(model: onnx.ModelProto, keep_float: Collection[str]) -> Plan:
    folded = _without_constants(model)
    _refuse_inner_graphs(folded)
    index, types = GraphIndex(folded.graph), known_types(folded)
    kept = _before_the_network(index) | _behind_the_network(index) | _l2_norms(index.nodes)
    kept |= {node.output[0] for node in index.nodes if node.op_type not in HALF_OPERATORS}
    kept |= _named(index.nodes, keep_float)
    lossy = _lossy_nodes(index, types, kept)
    kept |= set(lossy)
    reasons = {label(index.producer[output]): reason for output, reason in lossy.items()}
    return Plan(folded, index, types, frozenset(kept), reasons)


def _without_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose Constant nodes are initializers."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    nodes = list(copy.graph.node)
    del copy.graph.node[:]
    for node in nodes:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensor = copy.graph.initializer.add()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name = node.output[0]
        else:
            copy.graph.node.append(node)
    return copy


def _refuse_inner_graphs(model: onnx.ModelProto) -> None:
    holders = [n for n in model.graph.node if any(a.type in (a.GRAPH, a.GRAPHS) for a in n.attribute)]
    if holders or model.functions:
        name = label(holders[0]) if holders else model.functions[0].name
        raise ModelFileError(
            f"{name} holds a graph of its own (control flow or a function), for which there is no half precision here; "
            "expected the graph that ssd-edge exports: operators only"
        )


def known_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor by name; 0 for an input that is left out.

    Raises:
        ModelFileError: one that neither the file nor ONNX's shape inference tells.
    """
    types = {"": 0, **element_types(model)}
    for node in model.graph.node:
        for name in node.output:
            if not types.get(name) and name:
                raise ModelFileError(
                    f"the type of {name!r} is not known: {node.op_type} is no operator of ONNX's own; expected the "
                    "graph that ssd-edge exports"
                )
    return types


def _before_the_network(index: GraphIndex) -> set[str]:
    """The normalisation of the image: mean and deviation are subtracted and divided where no digit is lost."""
    reached = set(index.inputs)
    found = set()
    for node in index.nodes:
        variables = [name for name in node.input if name and name not in index.constants]
        if node.op_type in NORMALISATION and variables and reached.issuperset(variables):
            reached.add(node.output[0])
            found.add(node.output[0])
    return found


def _behind_the_network(index: GraphIndex) -> set[str]:
    """Box decoding and scores: what follows the last convolutions, from where their results are moved together on."""
    before: set[str] = set()  # what convolutions are computed from
    for node in reversed(index.nodes):
        if node.op_type in WEIGHTED or not before.isdisjoint(node.output):
            before.update(node.input)
    moved: set[str] = set()
    behind: set[str] = set()
    fixed = {"", *index.constants}
    for node in index.nodes:
        read = node.input if node.op_type == "Concat" else node.input[:1]
        if fixed.issuperset(node.input) and before.isdisjoint(node.output):  # parts of the default boxes
            fixed.update(node.output)
            behind.update(node.output)
        elif node.op_type in WEIGHTED or (node.op_type in MOVING and moved.issuperset(read)):
            moved.update(node.output)
        elif before.isdisjoint(node.output) and not (moved | behind).isdisjoint(node.input):
            behind.update(node.output)
    return behind


def _l2_norms(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """x / max(|x|, ε) and the like over channels: hundreds, squared and summed, overflow; ε is 0 in half."""
    reached: set[str] = set()
    ended: set[str] = set()
    for node in nodes:
        follows = node.op_type in L2_NORM and any(name in reached for name in node.input)
        if node.op_type == "ReduceL2" or follows:
            (ended if node.op_type == "Div" else reached).add(node.output[0])
    return reached | ended


def _named(nodes: Sequence[onnx.NodeProto], names: Collection[str]) -> set[str]:
    found = {node.output[0] for node in nodes if {node.name, *node.output} & set(names) - {""}}
    known = {name for node in nodes for name in (node.name, *node.output)}
    if unknown := sorted(set(names) - known):
        examples = ", ".join(repr(label(node)) for node in nodes[:3])
        raise UsageError(
            f"no node or tensor {', '.join(map(repr, unknown[:5]))} to keep in float32; give names as in the graph, "
            f"such as {examples}"
        )
    return found


def _lossy_nodes(index: GraphIndex, types: Mapping[str, int], kept: Collection[str]) -> dict[str, str]:
    """Nodes, by their first output, whose weights or scales half cannot hold, and why."""
    found = {}
    for node in index.nodes:
        if node.op_type not in HALF_OPERATORS or node.output[0] in kept:
            continue
        for name in node.input:
            if index.made_by(name, DEQUANTISE):
                name = index.producer[name].input[1]  # the scale
            if name in index.constants and types[name] == FLOAT and (reason := loss(index.array(name))):
                found[node.output[0]] = f"{name} {reason}"
                break
    return found


def loss(weights: NDArray[np.float32]) -> str | None:
    """What half would do to a tensor, if it is too much."""
    largest = float(np.abs(weights).max(initial=0))
    if not largest <= HALF_MAX:
        return f"reaches {largest:.3g}, half ends at {HALF_MAX:.0f}"
    scaled = weights / (largest or 1)  # so that no square is lost
    rounded = weights.astype(np.float16).astype(np.float32) / (largest or 1)
    if np.linalg.norm(scaled - rounded) > LARGEST_WEIGHT_ERROR * np.linalg.norm(scaled):
        return f"is too small for half: its largest value is {largest:.3g}"
    return None


def label(node: onnx.NodeProto) -> str:
    return node.name or node.output[0]


def described(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> str:
    """A node's name, with that of its weight, by which the layer is known in PyTorch."""
    weight = next((name for name in node.input if name in constants and len(constants[name].dims) > 1), None)
    return f"{label(node)} ({weight})" if weight else label(node)
