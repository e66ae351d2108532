"""An index of an ONNX graph: which node makes a tensor, which nodes read it, what its type is; and metadata.

Calibration, export and parity share it. Needs the `export` extra.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

OPSET = 18  # of the files that ssd-edge writes
IR_VERSION = 8  # the one that came with opset 18, so that runtimes from 2023 on load the file
LARGEST_SHAPE = 64  # values of a constant that a shape can depend on, such as those of a Reshape


class GraphIndex:
    """The nodes of a graph, found by the names of tensors.

    Attributes:
        nodes: in the graph's order.
        constants: initializers.
        inputs: names of what a caller gives: inputs without an initializer.
        outputs: names of what a caller gets.
        producer: the node that makes a tensor.
        readers: the nodes that read a tensor, each once, in the graph's order.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes = list(graph.node)
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.inputs = [info.name for info in graph.input if info.name not in self.constants]
        self.outputs = {info.name for info in graph.output}
        self.reindex()

    def reindex(self) -> None:
        """Update producers and readers after nodes were added or their inputs changed."""
        self.producer = {name: node for node in self.nodes for name in node.output if name}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in dict.fromkeys(node.input):  # a node that reads a tensor twice is one reader
                self.readers[name].append(node)

    def of(self, op_type: str) -> list[onnx.NodeProto]:
        """All nodes of a kind, in the graph's order."""
        return [node for node in self.nodes if node.op_type == op_type]

    def made_by(self, tensor: str, *op_types: str) -> bool:
        """Whether a node of one of these kinds makes a tensor."""
        return tensor in self.producer and self.producer[tensor].op_type in op_types

    def only_reader(self, tensor: str) -> onnx.NodeProto | None:
        """The node that reads a tensor, where it is one and the tensor is no output of the graph."""
        readers = self.readers[tensor]
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None

    def back_through(self, op_types: Collection[str], tensors: Iterable[str]) -> set[str]:
        """These tensors, and for those that nodes of these kinds made, also what the nodes read."""
        found = set(tensors)
        waiting = list(found)
        while waiting:
            node = self.producer.get(waiting.pop())
            if node is not None and node.op_type in op_types:
                found.add(node.input[0])
                waiting.append(node.input[0])
        return found

    def array(self, name: str) -> NDArray[Any]:
        """The value of a constant."""
        return np.asarray(numpy_helper.to_array(self.constants[name]))

    def floats(self, name: str) -> NDArray[np.float64]:
        """The value of a float constant."""
        return self.array(name).astype(np.float64)


def metadata_of(model: onnx.ModelProto) -> dict[str, str]:
    """The entries of a model's metadata."""
    return {prop.key: prop.value for prop in model.metadata_props}


def add_metadata(model: onnx.ModelProto, values: Mapping[str, str]) -> None:
    """Set entries of a model's metadata; others stay."""
    helper.set_model_props(model, metadata_of(model) | dict(values))


def own_opset(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that a model uses; 0 where it names none."""
    return next((int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def without_notes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, changed in place, without what only its maker needs: stack traces with local paths, signatures."""
    holders: list[Any] = [model, model.graph, *model.graph.node, *model.graph.initializer]
    holders += [*model.graph.value_info, *model.graph.input, *model.graph.output]
    for holder in holders:
        del holder.metadata_props[:]
        holder.doc_string = ""
    return model


def node_attribute(node: onnx.NodeProto, name: str, default: object) -> object:
    """The value of an attribute, or the default where the node does not have it."""
    for attribute in node.attribute:
        if attribute.name == name:
            return helper.get_attribute_value(attribute)
    return default


def topologically_sorted(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The nodes, each after those that it reads from, in the order that changes the present one least."""
    producer = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    done: set[int] = set()
    order: list[onnx.NodeProto] = []
    for start in range(len(nodes)):
        waiting = [start]  # depth first, without recursion
        while waiting:
            index = waiting[-1]
            made_by = (producer.get(name, index) for name in nodes[index].input)
            missing = [maker for maker in made_by if maker != index and maker not in done]
            if missing:
                waiting += missing
                continue
            waiting.pop()
            if index not in done:
                done.add(index)
                order.append(nodes[index])
    return order


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of each tensor by name, as declared or else inferred; 0 or nothing where it cannot be told."""
    graph = model.graph
    declared = _declared_types(graph)
    if not all(declared.get(name) for node in graph.node for name in node.output if name):
        declared |= _declared_types(_inferred(model))
    return declared | {tensor.name: tensor.data_type for tensor in graph.initializer}


def tensor_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor by name, for a batch of one image."""
    graph = _inferred(model)
    shapes = {}
    for info in (*graph.value_info, *graph.input, *graph.output):
        dims = info.type.tensor_type.shape.dim
        shapes[info.name] = tuple(dim.dim_value if dim.HasField("dim_value") else 1 for dim in dims)
    return shapes


def _declared_types(graph: onnx.GraphProto) -> dict[str, int]:
    infos = (*graph.input, *graph.output, *graph.value_info)
    return {info.name: info.type.tensor_type.elem_type for info in infos}


def _inferred(model: onnx.ModelProto) -> onnx.GraphProto:
    """The graph with all types and shapes that follow from it; large constants are inputs of it.

    No shape depends on the values of these, and inference copies all that it is given.
    """
    graph = model.graph
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    light.graph.name = graph.name
    for field in ("node", "input", "output", "value_info"):
        getattr(light.graph, field).extend(getattr(graph, field))
    for tensor in graph.initializer:
        if math.prod(tensor.dims) > LARGEST_SHAPE:
            light.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        else:
            light.graph.initializer.append(tensor)
    return onnx.shape_inference.infer_shapes(light).graph
