"""An ONNX graph that can be read and changed by tensor name: what both Q/DQ placements are written with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ssd_edge.onnx_graph import GraphIndex, node_attribute, tensor_shapes, topologically_sorted

RangeOf = Callable[[str], tuple[float, float]]  # a float tensor's name -> its lowest and highest value


class Graph(GraphIndex):
    """A copy of a model's graph with its index, and with the shapes of its tensors.

    Attributes:
        model: the copy; `finish` writes what was changed into it.
        nodes: in topological order, each named after its first output.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        super().__init__(self.model.graph)
        self._shapes = tensor_shapes(model)
        for node in self.nodes:  # so that messages and `keep_float` can name it whatever the exporter did
            node.name = node.output[0]
        self._names = {name for node in self.nodes for name in (*node.input, *node.output)} | set(self.constants)

    def values(self, name: str) -> int:
        """How many values a tensor has for one image; 0 where its shape does not follow from the graph."""
        return math.prod(self._shapes.get(name, (0,)))

    def is_depthwise(self, convolution: onnx.NodeProto) -> bool:
        """Whether each filter of a convolution reads one channel of several."""
        return node_attribute(convolution, "group", 1) != 1 and self.constants[convolution.input[1]].dims[1] == 1

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

    def finish(self) -> onnx.ModelProto:
        """The model with the changed nodes in topological order, without nodes and constants that nothing reads."""
        graph = self.model.graph
        used, kept = set(self.outputs), []
        for node in reversed(topologically_sorted(self.nodes)):
            if used.intersection(node.output):
                used.update(node.input)
                kept.append(node)
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(reversed(kept))
        graph.initializer.extend(tensor for name, tensor in self.constants.items() if name in used)
        return self.model
