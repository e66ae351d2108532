"""Half precision in the graph: weights and activations float16, box decoding and softmax float32.

TensorRT 11 takes a network's types from the graph alone ("Strongly Typed Networks" in
https://docs.nvidia.com/deeplearning/tensorrt), so this is where the precision of each layer is decided. Inputs and
outputs keep names, types and shapes.

Half has 11 bits of mantissa and no number above 65504. What sums many values or exponentiates stays in float32, and so
does whatever a look at real images finds to overflow.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tqdm import tqdm

from ssd_edge.errors import GateFailedError, ModelFileError, UsageError

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
HALF_MAX = 65504.0
NEAR_OVERFLOW = 0.5  # of HALF_MAX: worth a note, as other images may reach further
HALF_TINY = 2.0**-24  # the smallest that is not 0
LARGEST_WEIGHT_ERROR = 2.0**-9  # of a tensor's norm; half rounds to 2**-12 of it unless most of it is subnormal
QUANTISATION_OPSET = 19  # the first whose QuantizeLinear and DequantizeLinear take half

# All float inputs and outputs of these are of one type, and half does them no harm. All others stay in float32.
_HALF_OPERATORS = """
Add AveragePool Clip Concat Conv ConvTranspose DepthToSpace Div Dropout Elu Expand Flatten Gather Gemm HardSigmoid
HardSwish Identity LeakyRelu MatMul Max MaxPool Min Mul Neg PRelu Pad Relu Reshape Sigmoid Slice Split Squeeze Sub Tanh
Tile Transpose Unsqueeze
"""
HALF_OPERATORS = frozenset(_HALF_OPERATORS.split())
NORMALISATION = frozenset(("Add", "Cast", "Div", "Mul", "Sub", "Transpose"))
DECODING = frozenset(("Add", "Clip", "Concat", "Div", "Exp", "Mul", "Slice", "Softmax", "Sub"))
L2_NORM = frozenset(("Clip", "Div", "Expand", "ReduceL2"))  # torch.nn.functional.normalize; Div is its end
TYPE_FREE = frozenset(("Shape", "Size"))  # look at no value
QUANTISE, DEQUANTISE = "QuantizeLinear", "DequantizeLinear"


@dataclass(frozen=True)
class HalfReport:
    """What `half_from_float` decided.

    Attributes:
        images: how many it looked at.
        kept_float: nodes that half cannot hold, by name, and why. Those that are float32 by rule are not among them.
        near_overflow: largest magnitude of each tensor above half of what half holds, by its node.
        half_nodes: nodes that compute in half.
    """

    images: int
    kept_float: Mapping[str, str] = field(default_factory=dict)
    near_overflow: Mapping[str, float] = field(default_factory=dict)
    half_nodes: int = 0

    def __str__(self) -> str:
        lines = [f"{self.half_nodes} nodes in half; overflow looked for on {self.images} images"]
        lines += [f"kept in float32: {name}: {reason}" for name, reason in self.kept_float.items()]
        lines += [
            f"note: {name} reaches {value:.0f}, half ends at {HALF_MAX:.0f}"
            for name, value in self.near_overflow.items()
        ]
        return "\n".join(lines)


def half_from_float(
    model: onnx.ModelProto, images_rgb: Iterable[NDArray[np.uint8]], *, keep_float: Collection[str] = ()
) -> tuple[onnx.ModelProto, HalfReport]:
    """`half_graph` of a float32 graph, with every node in float32 that overflows half on real images.

    Args:
        images_rgb: uint8 [height, width, 3] each, as `preprocess` gives.
        keep_float: as in `half_graph`.

    Raises:
        GateFailedError: an activation is NaN or infinite in float32 already; its node is named.
        ModelFileError, UsageError: as `half_graph`.
    """
    images = list(images_rgb)
    plan = _plan(model, keep_float)
    maxima = activation_maxima(model, images)
    makers = {name: _described(node, plan.model.graph) for node in plan.model.graph.node for name in node.output}
    kept = dict(plan.lossy)
    for tensor, nodes in plan.half_neighbours().items():
        if maxima.get(tensor, 0) > HALF_MAX:
            reason = f"{makers[tensor]} reaches {maxima[tensor]:.3g}, half ends at {HALF_MAX:.0f}"
            kept |= {_label(node): reason for node in nodes if _label(node) not in kept}
    if kept.keys() - plan.lossy.keys():
        plan = _plan(model, [*keep_float, *kept])
    near = {
        makers[tensor]: maxima[tensor]
        for tensor in plan.half_neighbours()
        if NEAR_OVERFLOW * HALF_MAX < maxima.get(tensor, 0) <= HALF_MAX
    }
    half_nodes = sum(map(plan.is_half, plan.model.graph.node))
    return _Rewriter(plan).model(), HalfReport(len(images), kept, near, half_nodes)


def half_graph(model: onnx.ModelProto, *, keep_float: Collection[str] = ()) -> onnx.ModelProto:
    """The same network with half weights and activations, strongly typed: each Cast that is needed is written out.

    In float32 stay, by rule: the normalisation of the image, from the Cast of the uint8 `images` on; box decoding and
    softmax, with one Cast each at offsets and logits; the L2 norm of SSD300-VGG16's conv4_3, whose squares overflow
    half; means and sums, whose sums may; every operator not in `HALF_OPERATORS`. So do nodes with weights that half
    cannot hold, or of which too little is left (`LARGEST_WEIGHT_ERROR`).

    QuantizeLinear and DequantizeLinear take the float type of the data on their float side, as strong typing asks for;
    a DequantizeLinear that feeds both types is written twice. Half ones need opset 19, which the result then has; else
    opset and IR version stay.

    Args:
        model: float32 ONNX contract file, with Q/DQ or without; not changed.
        keep_float: names of nodes, or of tensors for the nodes that make them, to leave in float32.

    Raises:
        UsageError: `keep_float` has a name that the graph does not have.
        ModelFileError: the graph has control flow or functions of its own, or a tensor whose type cannot be told.
    """
    return _Rewriter(_plan(model, keep_float)).model()


def activation_maxima(model: onnx.ModelProto, images_rgb: Collection[NDArray[np.uint8]]) -> dict[str, float]:
    """Largest magnitude of every float tensor that a node makes, over all images; by tensor name, in graph order.

    The maxima are taken inside the graph, image by image, so memory is that of one inference.

    Args:
        images_rgb: uint8 [height, width, 3] each.

    Raises:
        GateFailedError: a value is NaN or infinite; the first node that gives one is named.
        UsageError: no images.
    """
    if not len(images_rgb):
        raise UsageError("no images to look for overflow on; give at least one")
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    types = _element_types(model)
    makers = {name: node for node in model.graph.node for name in node.output if types.get(name) == FLOAT}
    del watched.graph.output[:]
    for index, name in enumerate(makers):
        # ReduceMax passes over NaN; a sum does not.
        for kind in ("Max", "Min", "Sum"):
            output = f"ssd_edge_{kind}_{index}"
            watched.graph.node.append(helper.make_node(f"Reduce{kind}", [name], [output], keepdims=0))
            watched.graph.output.append(helper.make_tensor_value_info(output, FLOAT, []))
    session = ort.InferenceSession(watched.SerializeToString(), _quiet_options(), providers=["CPUExecutionProvider"])
    input_name = model.graph.input[0].name
    maxima = dict.fromkeys(makers, 0.0)
    for image in tqdm(images_rgb, desc="overflow", unit="image", disable=None, leave=False):
        figures = np.array(session.run(None, {input_name: image[None]})).reshape(-1, 3)
        for name, (largest, smallest, total) in zip(makers, figures.tolist(), strict=True):
            if not all(map(math.isfinite, (largest, smallest, total))):
                value = largest if math.isinf(largest) else total
                raise GateFailedError(
                    f"{_described(makers[name], model.graph)} gives {value} in float32 already; a checkpoint that "
                    "diverged in training does this: train it again with a lower learning rate"
                )
            maxima[name] = max(maxima[name], largest, -smallest)
    return maxima


def emulated_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """A half graph as a GPU runs it: each node computes in float32 and rounds what it gives to half.

    ONNX Runtime on the CPU has no half arithmetic and leaves the rounding between such nodes out, so the file itself,
    run there, is nearer to float32 than on a device. Tensor cores sum in float32 too.
    """
    types = _element_types(model)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        rounded = []
        if node.op_type not in (*TYPE_FREE, "Cast"):
            for place, name in enumerate(node.input):
                if types.get(name) == HALF:
                    copy.input[place] = f"{node.output[0]}_input{place}"
                    nodes.append(helper.make_node("Cast", [name], [copy.input[place]], to=FLOAT))
            for place, name in enumerate(node.output):
                if types.get(name) == HALF:
                    copy.output[place] = f"{name}_unrounded"
                    rounded.append(helper.make_node("Cast", [copy.output[place]], [name], to=HALF))
        nodes += [copy, *rounded]
    emulated = onnx.ModelProto()
    emulated.CopyFrom(model)
    del emulated.graph.node[:], emulated.graph.value_info[:]
    emulated.graph.node.extend(nodes)
    return emulated


@dataclass(frozen=True)
class _Plan:
    """A graph without Constant nodes, and which of its nodes stay float32.

    Attributes:
        types: element type of every tensor.
        float_nodes: first outputs of the nodes that stay float32, or whose types are not theirs to choose.
        lossy: labels of nodes that are among them for their weights, and why.
    """

    model: onnx.ModelProto
    types: dict[str, int]
    float_nodes: frozenset[str]
    lossy: Mapping[str, str]

    def is_half(self, node: onnx.NodeProto) -> bool:
        """Whether it computes in half."""
        named = (*node.input, *node.output)
        has_float = any(self.types[name] == FLOAT for name in named)
        return node.op_type in HALF_OPERATORS and has_float and node.output[0] not in self.float_nodes

    def half_neighbours(self) -> dict[str, list[onnx.NodeProto]]:
        """The half nodes that make or take each float tensor."""
        found: dict[str, list[onnx.NodeProto]] = {}
        for node in filter(self.is_half, self.model.graph.node):
            for name in (*node.input, *node.output):
                if self.types[name] == FLOAT:
                    found.setdefault(name, []).append(node)
        return found


def _plan(model: onnx.ModelProto, keep_float: Collection[str]) -> _Plan:
    folded = _without_constants(model)
    _refuse_inner_graphs(folded)
    types = _element_types(folded)
    kept = _before_the_network(folded.graph) | _behind_the_network(folded.graph) | _l2_norms(folded.graph)
    kept |= {node.output[0] for node in folded.graph.node if node.op_type not in HALF_OPERATORS}
    kept |= _named(folded.graph, keep_float)
    lossy = _lossy_nodes(folded.graph, types, kept)
    kept |= set(lossy)
    labels = {node.output[0]: _label(node) for node in folded.graph.node}
    return _Plan(folded, types, frozenset(kept), {labels[output]: reason for output, reason in lossy.items()})


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
        name = _label(holders[0]) if holders else model.functions[0].name
        raise ModelFileError(
            f"{name} holds a graph of its own (control flow or a function), for which there is no half precision here; "
            "expected the graph that ssd-edge exports: operators only"
        )


def _element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor by name; 0 for an input that is left out.

    Raises:
        ModelFileError: one that neither the file nor ONNX's shape inference tells.
    """
    graph = onnx.shape_inference.infer_shapes(model).graph
    infos = (*graph.input, *graph.output, *graph.value_info)
    types = {"": 0, **{info.name: info.type.tensor_type.elem_type for info in infos}}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    for node in graph.node:
        for name in node.output:
            if not types.get(name) and name:
                raise ModelFileError(
                    f"the type of {name!r} is not known: {node.op_type} is no operator of ONNX's own; expected the "
                    "graph that ssd-edge exports"
                )
    return types


def _before_the_network(graph: onnx.GraphProto) -> set[str]:
    """The normalisation of the image: mean and deviation are subtracted and divided where no digit is lost."""
    constants = {tensor.name for tensor in graph.initializer}
    reached = {info.name for info in graph.input}
    found = set()
    for node in graph.node:
        variables = [name for name in node.input if name and name not in constants]
        if node.op_type in NORMALISATION and variables and reached.issuperset(variables):
            reached.add(node.output[0])
            found.add(node.output[0])
    return found


def _behind_the_network(graph: onnx.GraphProto) -> set[str]:
    """Box decoding and softmax, back to the tensors of all offsets and all logits."""
    makers = {name: node for node in graph.node for name in node.output}
    found: set[str] = set()
    names = [info.name for info in graph.output]
    while names:
        node = makers.get(names.pop())
        if node is not None and node.op_type in DECODING and node.output[0] not in found:
            found.add(node.output[0])
            names += node.input
    for node in graph.node:  # one Cast behind the levels' concatenation, not one a level
        made = [makers[name].output[0] for name in node.input if name in makers]
        if node.op_type == "Concat" and made and not found & set(made):
            found.discard(node.output[0])
    return found


def _l2_norms(graph: onnx.GraphProto) -> set[str]:
    """x / max(|x|, ε) over channels: hundreds, squared and summed, overflow; ε of 1e-12 is 0 in half."""
    reached: set[str] = set()
    ended: set[str] = set()
    for node in graph.node:
        follows = node.op_type in L2_NORM and any(name in reached for name in node.input)
        if node.op_type == "ReduceL2" or follows:
            (ended if node.op_type == "Div" else reached).add(node.output[0])
    return reached | ended


def _named(graph: onnx.GraphProto, names: Collection[str]) -> set[str]:
    found = {node.output[0] for node in graph.node if {node.name, *node.output} & set(names) - {""}}
    known = {name for node in graph.node for name in (node.name, *node.output)}
    if unknown := sorted(set(names) - known):
        examples = ", ".join(repr(_label(node)) for node in list(graph.node)[:3])
        raise UsageError(
            f"no node or tensor {', '.join(map(repr, unknown[:5]))} to keep in float32; give names as in the graph, "
            f"such as {examples}"
        )
    return found


def _lossy_nodes(graph: onnx.GraphProto, types: Mapping[str, int], kept: Collection[str]) -> dict[str, str]:
    """Nodes, by their first output, whose weights or scales half cannot hold, and why."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    dequantisers = {node.output[0]: node for node in graph.node if node.op_type == DEQUANTISE}
    found = {}
    for node in graph.node:
        if node.op_type not in HALF_OPERATORS or node.output[0] in kept:
            continue
        for name in node.input:
            reason = None
            if name in tensors and types[name] == FLOAT:
                reason = _loss(numpy_helper.to_array(tensors[name]))
            elif name in dequantisers and (scale := tensors.get(dequantisers[name].input[1])) is not None:
                name = scale.name
                reason = _loss(numpy_helper.to_array(scale))
            if reason:
                found[node.output[0]] = f"{name} {reason}"
                break
    return found


def _loss(weights: NDArray[np.float32]) -> str | None:
    """What half would do to a tensor, if it is too much."""
    largest = float(np.abs(weights).max(initial=0))
    if not largest <= HALF_MAX:
        return f"reaches {largest:.3g}, half ends at {HALF_MAX:.0f}"
    scaled = weights / (largest or 1)  # so that no square is lost
    rounded = weights.astype(np.float16).astype(np.float32) / (largest or 1)
    if np.linalg.norm(scaled - rounded) > LARGEST_WEIGHT_ERROR * np.linalg.norm(scaled):
        return f"is too small for half: its largest value is {largest:.3g}"
    return None


class _Rewriter:
    """Writes the half graph node by node.

    `names` holds each tensor by name and type, `written` those of them that are there already.
    """

    def __init__(self, plan: _Plan) -> None:
        self.plan = plan
        self.graph = plan.model.graph
        self.tensors = {tensor.name: tensor for tensor in self.graph.initializer}
        self.dequantisers = {node.output[0]: node for node in self.graph.node if node.op_type == DEQUANTISE}
        self.scales = {node.input[1] for node in self.graph.node if node.op_type in (QUANTISE, DEQUANTISE)}
        self.taken = {name for node in self.graph.node for name in (node.name, *node.input, *node.output)}
        self.outputs = {info.name for info in self.graph.output}
        self.natural = self._natural_types()
        self.names = {
            (name, kind): self._fresh(name, kind) if name in self.outputs and kind == HALF else name
            for name, kind in self.natural.items()
        }
        self.written = {key for key in self.names if key[0] not in self.dequantisers}
        self.nodes: list[onnx.NodeProto] = []
        self.half_tensors: list[onnx.TensorProto] = []

    def model(self) -> onnx.ModelProto:
        for node in self.graph.node:
            if node.op_type == DEQUANTISE and self.plan.types[node.output[0]] == FLOAT:
                continue  # written where it is asked for, in the type that is asked for
            self._write(node)
        for info in self.graph.output:
            if self.natural.get(info.name, FLOAT) == HALF or info.name in self.dequantisers:
                self._as(info.name, FLOAT)
        return self._assembled()

    def _natural_types(self) -> dict[str, int]:
        """The type in which each float tensor is made; that of a dequantised one is for its takers to say."""
        asked_half = {name for node in self.graph.node if self.plan.is_half(node) for name in node.input}
        natural = {name: FLOAT for name, kind in self.plan.types.items() if kind == FLOAT}
        for node in self.graph.node:
            half = (
                node.output[0] in asked_half - self.outputs if node.op_type == DEQUANTISE else self.plan.is_half(node)
            )
            natural |= {name: HALF for name in node.output if half and natural.get(name) == FLOAT}
        return natural

    def _fresh(self, name: str, kind: int) -> str:
        fresh = f"{name}_{'half' if kind == HALF else 'float'}"
        while fresh in self.taken:
            fresh += "_"
        self.taken.add(fresh)
        return fresh

    def _write(self, node: onnx.NodeProto) -> None:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        kind = HALF if self.plan.is_half(node) else FLOAT
        if node.op_type == QUANTISE:
            kind = self._quantised_type(node)
        for place, name in enumerate(node.input):
            copy.input[place] = self._as(name, self.natural.get(name, 0) if node.op_type in TYPE_FREE else kind)
        for place, name in enumerate(node.output):
            copy.output[place] = self.names.get((name, kind), name)
        self.nodes.append(copy)

    def _quantised_type(self, node: onnx.NodeProto) -> int:
        """That of the data, unless half has no such scale."""
        scale = self.tensors.get(node.input[1])
        kind = self.natural[node.input[0]]
        return FLOAT if scale is not None and _loss(numpy_helper.to_array(scale)) else kind

    def _as(self, name: str, kind: int) -> str:
        """The name under which a float tensor is there in a type; what is no float tensor keeps its name."""
        if name not in self.natural:
            return name
        key = name, kind
        if key not in self.names:
            self.names[key] = name if name in self.outputs and kind == FLOAT else self._fresh(name, kind)
        if key not in self.written:
            self.written.add(key)
            self._convert(name, kind, self.names[key])
        return self.names[key]

    def _convert(self, name: str, kind: int, new: str) -> None:
        """Write a tensor in a type that it is not made in."""
        if name in self.dequantisers:
            copy = onnx.NodeProto()
            copy.CopyFrom(self.dequantisers[name])
            if new != name and copy.name:
                copy.name = f"{copy.name}_{'half' if kind == HALF else 'float'}"
            copy.input[1] = self._as(copy.input[1], kind)
            copy.output[0] = new
            self.nodes.append(copy)
        elif name in self.tensors:
            values = numpy_helper.to_array(self.tensors[name])
            halves = values.astype(np.float16)
            if name in self.scales:  # of a channel without weights, say; TensorRT takes positive ones only
                halves = np.where(values > 0, np.maximum(halves, np.float16(HALF_TINY)), halves)
            self.half_tensors.append(numpy_helper.from_array(halves, new))
        else:
            made = self.names[name, self.natural[name]]
            self.nodes.append(helper.make_node("Cast", [made], [new], name=f"cast_{new}", to=kind))

    def _assembled(self) -> onnx.ModelProto:
        model = onnx.ModelProto()
        model.CopyFrom(self.plan.model)
        graph = model.graph
        infos = {info.name: info for info in (*self.graph.value_info, *self.graph.output)}
        original = [info for info in self.graph.value_info if info.name not in self.natural]
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(self.nodes)
        used = {name for node in self.nodes for name in node.input}
        graph.initializer.extend(t for t in (*self.tensors.values(), *self.half_tensors) if t.name in used)
        graph.value_info.extend(original)
        for (name, kind), new in self.names.items():
            if name in infos and new not in self.outputs:
                info = graph.value_info.add()
                info.CopyFrom(infos[name])
                info.name = new
                info.type.tensor_type.elem_type = kind
        self._raise_opset(model)
        return model

    def _raise_opset(self, model: onnx.ModelProto) -> None:
        halves = {new for (_, kind), new in self.names.items() if kind == HALF}
        in_half = any(n.op_type in (QUANTISE, DEQUANTISE) and halves & set(n.input) for n in self.nodes)
        for entry in model.opset_import:
            if entry.domain in ("", "ai.onnx") and in_half:
                entry.version = max(entry.version, QUANTISATION_OPSET)


def _label(node: onnx.NodeProto) -> str:
    return node.name or node.output[0]


def _described(node: onnx.NodeProto, graph: onnx.GraphProto) -> str:
    """A node's name, with that of its weight, by which the layer is known in PyTorch."""
    weights = {tensor.name for tensor in graph.initializer if len(tensor.dims) > 1}
    weight = next((name for name in node.input if name in weights), None)
    return f"{_label(node)} ({weight})" if weight else _label(node)


def _quiet_options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only
    return options
