"""An ONNX graph that can be read and changed by tensor name: what both Q/DQ placements are written with."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

LARGEST_SHAPE = 64  # values of a constant that a shape can depend on, such as those of a Reshape
RangeOf = Callable[[str], tuple[float, float]]  # a float tensor's name -> its lowest and highest value


class Graph:
    """A copy of a model's graph with an index: who makes a tensor, who reads it, what its constants are.

    Attributes:
        model: the copy; `finish` writes what was changed into it.
        nodes: in topological order, each with a name of its own.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.nodes = list(self.model.graph.node)
        self.constants = {tensor.name: tensor for tensor in self.model.graph.initializer}
        self._shapes = _shapes(model)
        self.outputs = {output.name for output in self.model.graph.output}
        _name_nodes(self.nodes)
        self._names = {name for node in self.nodes for name in (*node.input, *node.output)} | set(self.constants)
        self.reindex()

    def reindex(self) -> None:
        """Find producers and readers anew, after nodes were added or their inputs changed."""
        self.producer = {name: node for node in self.nodes for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in dict.fromkeys(node.input):  # a node that reads a tensor twice is one reader
                self.readers[name].append(node)

    def array(self, name: str) -> NDArray[np.generic]:
        """The value of a constant."""
        return np.asarray(numpy_helper.to_array(self.constants[name]))

    def floats(self, name: str) -> NDArray[np.float64]:
        """The value of a float constant."""
        return self.array(name).astype(np.float64)

    def values(self, name: str) -> int:
        """How many values a tensor has for one image; 0 where its shape does not follow from the graph."""
        return math.prod(self._shapes.get(name, (0,)))

    def is_depthwise(self, convolution: onnx.NodeProto) -> bool:
        """Whether each filter of a convolution reads one channel of several."""
        return self.attribute(convolution, "group", 1) != 1 and self.constants[convolution.input[1]].dims[1] == 1

    def multiplications(self, convolution: onnx.NodeProto) -> int:
        """How many a convolution makes for one image; 0 where its output's shape does not follow from the graph."""
        per_value: int = math.prod(self.constants[convolution.input[1]].dims[1:])
        return self.values(convolution.output[0]) * per_value

    def add_constant(self, wish: str, value: NDArray[np.generic]) -> str:
        """Add a constant under the wished name, or one like it; returns the name."""
        name = self.new_name(wish)
        self.constants[name] = numpy_helper.from_array(value, name)
        return name

    def new_name(self, wish: str) -> str:
        """A tensor name that nothing has yet."""
        name, number = wish, 1
        while name in self._names:
            number += 1
            name = f"{wish}_{number}"
        self._names.add(name)
        return name

    def node(self, op_type: str, inputs: Iterable[str], output: str, **attributes: object) -> onnx.NodeProto:
        """Make a node named after its output; the caller puts it into `nodes`."""
        return helper.make_node(op_type, list(inputs), [output], name=output, **attributes)

    def only_reader(self, tensor: str) -> onnx.NodeProto | None:
        """The node that reads a tensor, where it is one and the tensor is no output of the model."""
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

    def attribute(self, node: onnx.NodeProto, name: str, default: object) -> object:
        """An attribute's value."""
        for attribute in node.attribute:
            if attribute.name == name:
                return helper.get_attribute_value(attribute)
        return default

    def finish(self) -> onnx.ModelProto:
        """The model with the changed nodes in topological order, without nodes and constants that nothing reads."""
        graph = self.model.graph
        used, kept = set(self.outputs), []
        for node in reversed(_sorted(self.nodes)):
            if used.intersection(node.output):
                used.update(node.input)
                kept.append(node)
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(reversed(kept))
        graph.initializer.extend(tensor for name, tensor in self.constants.items() if name in used)
        return self.model


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of the float tensors, for one image."""
    inferred = onnx.shape_inference.infer_shapes(_without_weights(model)).graph
    shapes = {}
    for info in (*inferred.value_info, *inferred.input, *inferred.output):
        dims = info.type.tensor_type.shape.dim
        shapes[info.name] = tuple(dim.dim_value if dim.HasField("dim_value") else 1 for dim in dims)
    return shapes


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without the values of large constants: no shape depends on them, and inference copies all it gets."""
    graph = model.graph
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    light.graph.name = graph.name
    for field in ("node", "input", "output", "value_info"):
        getattr(light.graph, field).extend(getattr(graph, field))
    for tensor in graph.initializer:
        if math.prod(tensor.dims) > LARGEST_SHAPE:
            light.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        else:
            light.graph.initializer.append(tensor)
    return light


def _name_nodes(nodes: list[onnx.NodeProto]) -> None:
    """Name each node after its output, so that messages and `keep_float` can name it whatever the exporter did."""
    for node in nodes:
        node.name = node.output[0]


def _sorted(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Topological order that changes the present one least; depth first, without recursion."""
    producer = {name: index for index, node in enumerate(nodes) for name in node.output}
    done: set[int] = set()
    order: list[onnx.NodeProto] = []
    for start in range(len(nodes)):
        waiting = [start]
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
