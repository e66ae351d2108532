"""A walk over the messages of an ONNX file: what it is, and whether a runtime may be given it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from ssd_edge.runtime.onnx_file.file import LARGEST_BYTES, OnnxFile, OnnxTensor, Shape
from ssd_edge.runtime.onnx_file.schema import ELEMENT_TYPES
from ssd_edge.runtime.onnx_file.tensor import LONGEST_SHAPE, Tensor, count_elements, read_tensor
from ssd_edge.runtime.onnx_file.wire import Span, WireReader, read_number, read_signed, read_span

LARGEST_INPUT_SIZE = 8192  # as of the card's height and width


class Walk:
    """One file and what has been found in it so far."""

    def __init__(self, reader: WireReader) -> None:
        self.reader = reader
        self.operators: Counter[str] = Counter()
        self.shapes: dict[str, list[int]] = {}  # short int64 constants by name
        self.made_constants: set[str] = set()  # what Constant nodes give, in whichever of a dozen forms

    def model(self) -> OnnxFile:
        """Walk the whole file.

        Raises:
            ModelFileError: it is damaged, or a runtime should not be given it.
        """
        ir_version, opset, producer = 0, 0, ""
        metadata: dict[str, str] = {}
        graph: _Graph | None = None
        for number, value in self.reader.fields((0, len(self.reader.data)), "ModelProto"):
            if number == 1:
                ir_version = read_signed(read_number(value), 64)
            elif number == 2:
                producer = self.reader.text(value)
            elif number == 7:
                graph = self.graph(read_span(value))
            elif number == 8:
                domain, version = self.opset(read_span(value))
                if domain in ("", "ai.onnx"):
                    opset = version
            elif number == 14:
                key, entry = self.reader.entry(read_span(value))
                metadata[key] = entry
            else:
                self.reader.inner(self.training_info if number == 20 else self.function, value)
        if graph is None or not (graph.outputs and ir_version):
            self.reader.damaged("it has no graph with outputs")
        return OnnxFile(
            path=self.reader.path,
            size_bytes=len(self.reader.data),
            ir_version=ir_version,
            opset=opset,
            producer=producer,
            inputs=tuple(tensor for tensor in graph.inputs if tensor.name not in graph.initializers),
            outputs=tuple(graph.outputs),
            metadata=metadata,
            operators=dict(self.operators),
            parameters=graph.parameters,
        )

    def opset(self, span: Span) -> tuple[str, int]:
        domain, version = "", 0
        for number, value in self.reader.fields(span, "OperatorSetIdProto"):
            if number == 1:
                domain = self.reader.text(value)
            else:
                version = read_signed(read_number(value), 64)
        return domain, version

    def training_info(self, span: Span) -> None:
        for _, value in self.reader.fields(span, "TrainingInfoProto"):
            self.reader.inner(self.graph, value)

    def function(self, span: Span) -> None:
        for number, value in self.reader.fields(span, "FunctionProto"):
            walks: dict[int, Callable[[Span], object]] = {7: self.node, 11: self.attribute, 12: self.value}
            self.reader.inner(walks[number], value)

    def graph(self, span: Span) -> _Graph:
        graph, nodes = _Graph([], [], set(), 0), []
        for number, value in self.reader.fields(span, "GraphProto"):
            if number == 1:
                nodes.append(value)
            elif number == 5:
                initializer = self.tensor(read_span(value))
                graph.initializers.add(initializer.name)
                graph.parameters += initializer.elements
            elif number == 15:
                self.reader.inner(self.sparse_tensor, value)
            else:
                tensor = self.value(read_span(value))
                if number == 11:
                    self.check_input(tensor)
                    graph.inputs.append(tensor)
                elif number == 12:
                    graph.outputs.append(tensor)
        for value in nodes:  # behind the initializers, whose values tell what some of the nodes make
            self.reader.inner(self.node, value)
        return graph

    def check_input(self, tensor: OnnxTensor) -> None:
        for size in tensor.shape or ():
            if isinstance(size, int) and size > LARGEST_INPUT_SIZE:
                self.reader.refuse(f"input {tensor}; expected sizes up to {LARGEST_INPUT_SIZE}")

    def node(self, span: Span) -> None:
        inputs: list[str] = []
        outputs: list[str] = []
        name = op_type = domain = ""
        attributes = []
        for number, value in self.reader.fields(span, "NodeProto"):
            if number == 5:
                attributes.append(value)
                continue
            text = self.reader.text(value)
            if number == 1:
                inputs.append(text)
            elif number == 2:
                outputs.append(text)
            elif number == 3:
                name = text
            elif number == 4:
                op_type = text
            else:
                domain = text
        self.operators[op_type if domain in ("", "ai.onnx") else f"{domain}::{op_type}"] += 1
        for value in attributes:
            self.reader.inner(self.attribute, value)
        if op_type == "Constant":
            self.made_constants.update(outputs)
        self.check_made(op_type, name or ", ".join(outputs), inputs)

    def check_made(self, op_type: str, name: str, inputs: list[str]) -> None:
        """Small operators that make large tensors: their size is a constant that folding would fill in on loading."""
        place = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1, "Range": 1}.get(op_type)
        if place is not None and place < len(inputs) and inputs[place] in self.made_constants:
            self.reader.refuse(
                f"{op_type} {name!r:.100} makes a tensor whose size is in a Constant node; expected sizes among the "
                "graph's own constants, as ssd-edge export writes them"
            )
        if op_type == "Range" or place is None or place >= len(inputs) or inputs[place] not in self.shapes:
            return
        shape = self.shapes[inputs[place]]
        if math.prod(max(size, 1) for size in shape) > LARGEST_BYTES:
            self.reader.refuse(f"{op_type} {name!r:.100} makes a tensor of {str(shape)[:100]}; expected at most 2 GiB")

    def attribute(self, span: Span) -> None:
        for number, value in self.reader.fields(span, "AttributeProto"):
            if number == 1:
                continue
            if number in (5, 10):
                self.reader.inner(self.tensor, value)
            elif number in (6, 11):
                self.reader.inner(self.graph, value)
            elif number in (22, 23):
                self.reader.inner(self.sparse_tensor, value)
            else:
                self.reader.inner(self.type, value)

    def tensor(self, span: Span) -> Tensor:
        tensor = read_tensor(self.reader, span)
        if tensor.shape is not None:
            self.shapes[tensor.name] = tensor.shape
        return tensor

    def sparse_tensor(self, span: Span) -> None:
        dims: list[int] = []
        for number, value in self.reader.fields(span, "SparseTensorProto"):
            if number == 3:
                dims += self.reader.numbers(value)
            else:
                self.reader.inner(self.tensor, value)
        count_elements(self.reader, "a sparse tensor", 1, dims)

    def value(self, span: Span) -> OnnxTensor:
        name, element_type, shape = "", "unknown", None
        for number, value in self.reader.fields(span, "ValueInfoProto"):
            if number == 1:
                name = self.reader.text(value)
            else:
                element_type, shape = self.type(read_span(value))
        self.check_shape(name, element_type, shape)
        return OnnxTensor(name, element_type, shape)

    def check_shape(self, name: str, element_type: str, shape: Shape | None) -> None:
        sizes = [size for size in shape or () if isinstance(size, int)]
        if len(sizes) > LONGEST_SHAPE or any(size < 0 for size in sizes):
            self.reader.refuse(f"{name!r:.100} has the shape {str(sizes)[:100]}; expected sizes from 0")
        bits = next((bits for kind, bits in ELEMENT_TYPES.values() if kind == element_type), 8)
        if math.prod(max(size, 1) for size in sizes) * bits > 8 * LARGEST_BYTES:
            self.reader.refuse(f"{name!r:.100} is {element_type} {str(sizes)[:100]}; expected at most 2 GiB")

    def type(self, span: Span) -> tuple[str, Shape | None]:
        kind, shape = "unknown", None
        for number, value in self.reader.fields(span, "TypeProto"):
            if number in (1, 8):
                kind, shape = self.tensor_type(read_span(value))
            elif number != 7:  # an opaque type holds two names
                self.reader.inner(self.map_type if number == 5 else self.sequence_type, value)
                kind = {4: "sequence", 5: "map", 9: "optional"}[number]
        return kind, shape

    def sequence_type(self, span: Span) -> None:
        for _, value in self.reader.fields(span, "TypeProto.Sequence"):
            self.reader.inner(self.type, value)

    def map_type(self, span: Span) -> None:
        for _, value in self.reader.fields(span, "TypeProto.Map"):
            self.reader.inner(self.type, value)

    def tensor_type(self, span: Span) -> tuple[str, Shape | None]:
        kind, shape = "unknown", None
        for number, value in self.reader.fields(span, "TypeProto.Tensor"):
            if number == 1:
                kind = ELEMENT_TYPES.get(read_signed(read_number(value), 32), ("unknown", 8))[0]
            else:
                shape = tuple(
                    self.dimension(read_span(dim))
                    for _, dim in self.reader.fields(read_span(value), "TensorShapeProto")
                )
        return kind, shape

    def dimension(self, span: Span) -> int | str | None:
        found: int | str | None = None
        for number, value in self.reader.fields(span, "TensorShapeProto.Dimension"):
            found = read_signed(read_number(value), 64) if number == 1 else self.reader.text(value) or None
        return found


@dataclass
class _Graph:
    inputs: list[OnnxTensor]
    outputs: list[OnnxTensor]
    initializers: set[str]
    parameters: int
