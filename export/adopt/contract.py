"""The ONNX contract around a foreign network: image bytes in front of it, boxes and scores behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ssd_edge.calib.placement.graph import Graph
from ssd_edge.card import SIGMOID
from ssd_edge.export.adopt.foreign import ForeignInput
from ssd_edge.export.adopt.meaning import BoxForm, Columns, Meaning
from ssd_edge.importers.family import Normalisation
from ssd_edge.onnx_graph import node_attribute

CONTRACT = ("images", "boxes", "scores")
FLOAT = TensorProto.FLOAT
LAST = np.iinfo(np.int64).max  # end of a slice that goes to the end


def under_contract(
    model: onnx.ModelProto,
    taken: ForeignInput,
    meaning: Meaning,
    normalisation: Normalisation,
    *,
    bgr: bool,
    classes: tuple[int, int],
    anchors: int,
) -> onnx.ModelProto:
    """The network with our input and outputs; what nothing of them depends on is gone.

    Args:
        model: with a dynamic batch and a float32 input; not changed.
        bgr: the network reads blue first.
        classes: first and one behind the last column of the scores that is no background.
    """
    renamed: dict[str, str] = {}
    model = _without_our_names(model, renamed)
    graph = Graph(model)
    (source,) = graph.inputs
    _read_bytes(graph, source, taken, normalisation, bgr=bgr)
    boxes = _boxes(graph, _moved(meaning.boxes, renamed), meaning.form, meaning.size_wh)
    scores = _scores(graph, _moved(meaning.scores, renamed), meaning, classes)
    graph.outputs = {boxes, scores}
    contract = graph.finish()
    ends = contract.graph
    del ends.input[:], ends.output[:]
    sizes = ["batch", taken.height, taken.width, 3]
    ends.input.append(helper.make_tensor_value_info("images", TensorProto.UINT8, sizes))
    ends.output.append(helper.make_tensor_value_info("boxes", FLOAT, ["batch", anchors, 4]))
    ends.output.append(helper.make_tensor_value_info("scores", FLOAT, ["batch", anchors, classes[1] - classes[0]]))
    _rename(ends, {boxes: "boxes", scores: "scores"})
    return contract


def _without_our_names(model: onnx.ModelProto, renamed: dict[str, str]) -> onnx.ModelProto:
    """A copy in which no tensor has a name of the contract; `renamed` gets the new names."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    for name in CONTRACT:
        fresh = f"foreign_{name}"
        while fresh in taken:
            fresh += "_"
        renamed[name] = fresh
    _rename(graph, renamed)
    for holder in (*graph.input, *graph.output, *graph.initializer):
        holder.name = renamed.get(holder.name, holder.name)
    return copy


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for node in graph.node:
        node.name = names.get(node.name, node.name)
        for side in (node.input, node.output):
            for place, name in enumerate(side):
                side[place] = names.get(name, name)


def _moved(columns: Columns, renamed: Mapping[str, str]) -> Columns:
    return columns._replace(output=renamed.get(columns.output, columns.output))


def _read_bytes(graph: Graph, source: str, taken: ForeignInput, normalisation: Normalisation, *, bgr: bool) -> None:
    """Cast, Transpose, Sub and Div, as our own exports begin; the int8 placement for CPUs knows this beginning."""
    steps: list[tuple[str, list[str], dict[str, object]]] = [("Cast", [], {"to": FLOAT})]
    if taken.planes_first:
        steps.append(("Transpose", [], {"perm": [0, 3, 1, 2]}))
    mean, std = (
        np.array(part, np.float32).reshape((1, 3, 1, 1) if taken.planes_first else (3,)) for part in normalisation
    )
    if mean.any() or (std != 1).any():
        steps.append(("Sub", [graph.add_constant("mean", mean)], {}))
    if (std != 1).any():
        steps.append(("Div", [graph.add_constant("std", std)], {}))
    if bgr and not _reverse_first_weights(graph, source):
        order = graph.add_constant("blue_first", np.array([2, 1, 0], np.int64))
        steps.append(("Gather", [order], {"axis": 1 if taken.planes_first else 3}))
    tensor, nodes = "images", []
    for number, (op_type, constants, attributes) in enumerate(steps):
        output = source if number == len(steps) - 1 else graph.new_name(f"images_{op_type.lower()}")
        nodes.append(graph.node(op_type, [tensor, *constants], output, **attributes))
        tensor = output
    graph.nodes[:0] = nodes
    graph.reindex()


def _reverse_first_weights(graph: Graph, source: str) -> bool:
    """Let the convolution that reads the image read red first; False where it is not one convolution alone."""
    reader = graph.only_reader(source)
    if reader is None or reader.op_type != "Conv" or node_attribute(reader, "group", 1) != 1:
        return False
    name = reader.input[1]
    if name not in graph.constants or len(graph.readers[name]) > 1:
        return False
    graph.constants[name] = numpy_helper.from_array(np.ascontiguousarray(graph.array(name)[:, ::-1]), name)
    return True


class _Tail:
    """Nodes one behind the other, from an output of the network on."""

    def __init__(self, graph: Graph, tensor: str, name: str) -> None:
        self.graph, self.tensor, self._name = graph, tensor, name

    def add(self, op_type: str, *others: str, **attributes: object) -> str:
        """A node that reads the last tensor first; returns its output, from which the next one goes on."""
        output = self.graph.new_name(f"{self._name}_{op_type.lower()}")
        self.graph.nodes.append(self.graph.node(op_type, [self.tensor, *others], output, **attributes))
        self.tensor = output
        return output

    def cut(self, begin: int, end: int | None, columns: int | None = None) -> str:
        """Columns of the last tensor, [batch, anchors, columns]; nothing is added where these are all."""
        if begin == 0 and end in (None, columns):
            return self.tensor
        values = {"begin": begin, "end": LAST if end is None else end, "axis": 2}
        return self.add("Slice", *(self.constant(what, [value]) for what, value in values.items()))

    def constant(self, name: str, values: Sequence[float]) -> str:
        kind = np.int64 if all(isinstance(value, int) for value in values) else np.float32
        return self.graph.add_constant(f"{self._name}_{name}", np.array(values, kind))


def _boxes(graph: Graph, columns: Columns, form: BoxForm, size_wh: tuple[int, int]) -> str:
    tail = _Tail(graph, columns.output, "boxes")
    tail.cut(columns.begin, columns.end)
    if form.rows_first:
        tail.add("Gather", tail.constant("order", [1, 0, 3, 2]), axis=2)
    if form.centre:
        whole = tail.tensor
        centre = tail.cut(0, 2)
        tail.tensor = whole
        tail.cut(2, 4)
        half = tail.add("Mul", tail.constant("half", [0.5]))
        tail.tensor = centre
        low = tail.add("Sub", half)
        tail.tensor = centre
        high = tail.add("Add", half)
        tail.tensor = low
        tail.add("Concat", high, axis=2)
    if form.pixels:
        tail.add("Div", tail.constant("sides", [float(side) for side in size_wh * 2]))
    return tail.tensor


def _scores(graph: Graph, columns: Columns, meaning: Meaning, classes: tuple[int, int]) -> str:
    tail = _Tail(graph, columns.output, "scores")
    tail.cut(columns.begin, columns.end)
    if meaning.logits:
        if meaning.score_function == SIGMOID:
            tail.add("Sigmoid")
        else:
            tail.add("Softmax", axis=2)
    return tail.cut(*classes, columns=meaning.columns)
