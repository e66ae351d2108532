"""A walk over the bytes of an ONNX file that trusts none of them."""

from __future__ import annotations

import math
import mmap
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import NoReturn

import numpy as np

from ssd_edge.errors import ModelFileError
from ssd_edge.runtime.onnx_file.file import LARGEST_BYTES, REMEDY, OnnxFile, OnnxTensor, Shape
from ssd_edge.runtime.onnx_file.wire import (
    BYTES,
    FIELDS,
    FIXED32,
    FIXED64,
    LONGEST_TEXT,
    MOST_FIELDS,
    VARINT,
    Span,
    read_number,
    read_signed,
    read_span,
)

LARGEST_INPUT_SIZE = 8192  # as of the card's height and width
DEEPEST = 60  # messages in messages; a graph inside a node takes three. Protobuf's own limit is 100
LONGEST_SHAPE = 64  # values of a constant that may be a shape
# TensorProto.DataType: ONNX Runtime's name and the bits of an element; a string takes what it takes.
ELEMENT_TYPES: dict[int, tuple[str, int]] = {
    1: ("float", 32),
    2: ("uint8", 8),
    3: ("int8", 8),
    4: ("uint16", 16),
    5: ("int16", 16),
    6: ("int32", 32),
    7: ("int64", 64),
    8: ("string", 8),
    9: ("bool", 8),
    10: ("float16", 16),
    11: ("double", 64),
    12: ("uint32", 32),
    13: ("uint64", 64),
    14: ("complex64", 64),
    15: ("complex128", 128),
    16: ("bfloat16", 16),
    17: ("float8e4m3fn", 8),
    18: ("float8e4m3fnuz", 8),
    19: ("float8e5m2", 8),
    20: ("float8e5m2fnuz", 8),
    21: ("uint4", 4),
    22: ("int4", 4),
    23: ("float4e2m1", 4),
    24: ("float8e8m0", 8),
    25: ("uint2", 2),
    26: ("int2", 2),
    27: ("float6e2m3", 6),
    28: ("float6e3m2", 6),
}
INT64, STRING = 7, 8
EXTERNAL = 1  # TensorProto.DataLocation
# TensorProto's data fields: how many bytes or values an element of each type takes there.
_INT32_DATA = (2, 3, 4, 5, 6, 9, 10, 16, 17, 18, 19, 20, 24)
TYPES_OF_DATA_FIELD = {4: (1, 14), 5: _INT32_DATA, 6: (STRING,), 7: (INT64,), 10: (11, 15), 11: (12, 13)}
SUB_BYTE_TYPES = tuple(kind for kind, (_, bits) in ELEMENT_TYPES.items() if bits < 8)


class Walk:
    """One file and what has been found in it so far."""

    def __init__(self, path: Path, data: mmap.mmap | bytes) -> None:
        self.path = path
        self.data = data
        self.left = MOST_FIELDS
        self.depth = 0
        self.operators: Counter[str] = Counter()
        self.shapes: dict[str, list[int]] = {}  # short int64 constants by name
        self.made_constants: set[str] = set()  # what Constant nodes give, in whichever of a dozen forms

    def refuse(self, problem: str) -> NoReturn:
        raise ModelFileError(f"{self.path}: {problem}; {REMEDY}")

    def damaged(self, problem: str) -> NoReturn:
        raise ModelFileError(
            f"{self.path}: cannot load it: no ONNX file, or a damaged one ({problem}); copy it again, or {REMEDY}"
        )

    # The wire format

    def varint(self, position: int, end: int) -> tuple[int, int]:
        """An unsigned 64-bit number and the position behind it."""
        value = shift = 0
        while True:
            if position >= end:
                self.damaged(f"it ends inside a number at byte {position}")
            byte = self.data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFF_FFFF_FFFF_FFFF, position
            shift += 7
            if shift >= 70:
                self.damaged(f"a number of more than 10 bytes at byte {position}")

    def fields(self, span: Span, message: str) -> Iterator[tuple[int, int | Span]]:
        """Number and value of each known field: a number, or where its bytes are."""
        known, seen = FIELDS[message], set()
        position, end = span
        while position < end:
            begin = position
            tag, position = self.varint(position, end)
            number, wire = tag >> 3, tag & 7
            if not 0 < number < 1 << 29:
                self.damaged(f"field number {number} at byte {begin}")
            value: int | Span
            if wire == VARINT:
                value, position = self.varint(position, end)
            elif wire in (BYTES, FIXED32, FIXED64):
                size = 4 if wire == FIXED32 else 8
                if wire == BYTES:
                    size, position = self.varint(position, end)
                if size > end - position:
                    self.damaged(
                        f"{message} field {number} at byte {begin} has {size} bytes, {end - position} are left"
                    )
                value = (position, position + size)
                position += size
            else:
                self.damaged(f"wire type {wire} at byte {begin}")
            self.left -= 1
            if self.left < 0:
                self.refuse(f"more than {MOST_FIELDS:,} protobuf fields; a detector has a few thousand")
            if number not in known:
                continue
            wires, repeats = known[number]
            if wire not in wires or (not repeats and number in seen):
                twice = "occurs twice" if wire in wires else f"has wire type {wire}"
                self.damaged(f"{message} field {number} {twice} at byte {begin}")
            seen.add(number)
            yield number, value

    def text(self, span: Span | int) -> str:
        begin, end = read_span(span)
        if end - begin > LONGEST_TEXT:
            self.refuse(f"a name or text of {(end - begin) / 1e6:.0f} MB; expected at most {LONGEST_TEXT >> 20} MiB")
        return bytes(self.data[begin:end]).decode("utf-8", errors="replace")

    def numbers(self, value: int | Span) -> list[int]:
        """Signed numbers of a repeated int64 field, packed or not."""
        if isinstance(value, int):
            return [read_signed(value, 64)]
        position, end = value
        found = []
        while position < end:
            number, position = self.varint(position, end)
            found.append(read_signed(number, 64))
            self.left -= 1
            if self.left < 0:
                self.refuse(f"more than {MOST_FIELDS:,} dimensions")
        return found

    def count(self, number: int, value: int | Span) -> int:
        """How many values a data field of a tensor holds, which may come in packed pieces."""
        if number == 6 or isinstance(value, int):
            return 1
        begin, end = value
        if number in (4, 10):
            size = 4 if number == 4 else 8
            if (end - begin) % size:
                self.damaged(f"{end - begin} bytes of {8 * size}-bit numbers at byte {begin}")
            return (end - begin) // size
        # A varint ends with the byte whose high bit is clear.
        return int(np.count_nonzero(np.frombuffer(self.data, np.uint8, end - begin, begin) < 0x80))

    def inner(self, walk: Callable[[Span], None], value: int | Span) -> None:
        """Walk a message inside a message, not too deep."""
        self.depth += 1
        if self.depth > DEEPEST:
            self.refuse(f"graphs, sequences or maps inside each other more than {DEEPEST} messages deep")
        walk(read_span(value))
        self.depth -= 1

    # The messages of onnx.proto3

    def model(self) -> OnnxFile:
        ir_version, opset, producer = 0, 0, ""
        metadata: dict[str, str] = {}
        graph: _Graph | None = None
        for number, value in self.fields((0, len(self.data)), "ModelProto"):
            if number == 1:
                ir_version = read_signed(read_number(value), 64)
            elif number == 2:
                producer = self.text(value)
            elif number == 7:
                graph = self.graph(read_span(value))
            elif number == 8:
                domain, version = self.opset(read_span(value))
                if domain in ("", "ai.onnx"):
                    opset = version
            elif number == 14:
                key, entry = self.entry(read_span(value))
                metadata[key] = entry
            else:
                self.inner(self.training_info if number == 20 else self.function, value)
        if graph is None or not (graph.outputs and ir_version):
            self.damaged("it has no graph with outputs")
        return OnnxFile(
            path=self.path,
            size_bytes=len(self.data),
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
        for number, value in self.fields(span, "OperatorSetIdProto"):
            if number == 1:
                domain = self.text(value)
            else:
                version = read_signed(read_number(value), 64)
        return domain, version

    def entry(self, span: Span) -> tuple[str, str]:
        found = {1: "", 2: ""}
        for number, value in self.fields(span, "StringStringEntryProto"):
            found[number] = self.text(value)
        return found[1], found[2]

    def training_info(self, span: Span) -> None:
        for _, value in self.fields(span, "TrainingInfoProto"):
            self.inner(self.subgraph, value)

    def function(self, span: Span) -> None:
        for number, value in self.fields(span, "FunctionProto"):
            walk = {7: self.node, 11: self.attribute, 12: self.value_info}[number]
            self.inner(walk, value)

    def subgraph(self, span: Span) -> None:
        self.graph(span)

    def graph(self, span: Span) -> _Graph:
        graph, nodes = _Graph([], [], set(), 0), []
        for number, value in self.fields(span, "GraphProto"):
            if number == 1:
                nodes.append(value)
            elif number == 5:
                name, elements = self.tensor(read_span(value))
                graph.initializers.add(name)
                graph.parameters += elements
            elif number == 15:
                self.inner(self.sparse_tensor, value)
            else:
                tensor = self.value(read_span(value))
                if number == 11:
                    self.check_input(tensor)
                    graph.inputs.append(tensor)
                elif number == 12:
                    graph.outputs.append(tensor)
        for value in nodes:  # behind the initializers, whose values tell what some of the nodes make
            self.inner(self.node, value)
        return graph

    def check_input(self, tensor: OnnxTensor) -> None:
        for size in tensor.shape or ():
            if isinstance(size, int) and size > LARGEST_INPUT_SIZE:
                self.refuse(f"input {tensor}; expected sizes up to {LARGEST_INPUT_SIZE}")

    def node(self, span: Span) -> None:
        inputs: list[str] = []
        outputs: list[str] = []
        name = op_type = domain = ""
        attributes = []
        for number, value in self.fields(span, "NodeProto"):
            if number == 5:
                attributes.append(value)
                continue
            text = self.text(value)
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
            self.inner(self.attribute, value)
        if op_type == "Constant":
            self.made_constants.update(outputs)
        self.check_made(op_type, name or ", ".join(outputs), inputs)

    def check_made(self, op_type: str, name: str, inputs: list[str]) -> None:
        """Small operators that make large tensors: their size is a constant that folding would fill in on loading."""
        place = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1, "Range": 1}.get(op_type)
        if place is not None and place < len(inputs) and inputs[place] in self.made_constants:
            self.refuse(
                f"{op_type} {name!r:.100} makes a tensor whose size is in a Constant node; expected sizes among the "
                "graph's own constants, as ssd-edge export writes them"
            )
        if op_type == "Range" or place is None or place >= len(inputs) or inputs[place] not in self.shapes:
            return
        shape = self.shapes[inputs[place]]
        if math.prod(max(size, 1) for size in shape) > LARGEST_BYTES:
            self.refuse(f"{op_type} {name!r:.100} makes a tensor of {str(shape)[:100]}; expected at most 2 GiB")

    def attribute(self, span: Span) -> None:
        for number, value in self.fields(span, "AttributeProto"):
            if number == 1:
                continue
            if number in (5, 10):
                self.inner(self.constant, value)
            elif number in (6, 11):
                self.inner(self.subgraph, value)
            elif number in (22, 23):
                self.inner(self.sparse_tensor, value)
            else:
                self.inner(self.type_of_attribute, value)

    def constant(self, span: Span) -> None:
        self.tensor(span)

    def type_of_attribute(self, span: Span) -> None:
        self.type(span)

    def tensor(self, span: Span) -> tuple[str, int]:
        """Its name and how many elements it has."""
        dims: list[int] = []
        external: dict[str, str] = {}
        counts: Counter[int] = Counter()
        name, data_type, location = "", 0, 0
        values: list[Span | int] = []
        for number, value in self.fields(span, "TensorProto"):
            if number == 1:
                dims += self.numbers(value)
            elif number == 2:
                data_type = read_signed(read_number(value), 32)
            elif number == 8:
                name = self.text(value)
            elif number == 13:
                key, entry = self.entry(read_span(value))
                external[key] = entry
            elif number == 14:
                location = read_signed(read_number(value), 32)
            elif number == 9:
                begin, end = read_span(value)
                counts[number] = end - begin
                values.append(value)
            else:
                counts[number] += self.count(number, value)
                values.append(value)
        label = f"tensor {name!r:.100}" if name else "an unnamed tensor"
        if location or external:
            self.refuse_external(label, external)
        elements = self.elements(label, data_type, dims)
        self.check_data(label, data_type, elements, dims, +counts)
        if data_type == INT64 and elements <= LONGEST_SHAPE and name:
            self.shapes[name] = self.int64_values(values, raw=counts[9] > 0)
        return name, elements

    def refuse_external(self, label: str, external: dict[str, str]) -> NoReturn:
        location = external.get("location", "")
        leaves = ", which leaves the folder of the model" if _leaves_folder(self.path, location) else ""
        where = f" {location!r:.200}{leaves}" if location else ""
        raise ModelFileError(
            f"{self.path}: {label} keeps its data in another file{where}; expected one file that holds everything: "
            "if you trust its source, load it with onnx.load and save it with onnx.save, whose default is one file"
        )

    def elements(self, label: str, data_type: int, dims: list[int]) -> int:
        """The product of the dimensions, which must be sensible."""
        if data_type not in ELEMENT_TYPES:
            self.refuse(f"{label} has element type {data_type}, which ONNX does not have")
        if any(size < 0 for size in dims):
            self.refuse(f"{label} has a negative dimension: {str(dims)[:100]}")
        elements = math.prod(dims) if len(dims) <= LONGEST_SHAPE else LARGEST_BYTES + 1
        if elements * ELEMENT_TYPES[data_type][1] > 8 * LARGEST_BYTES:
            self.refuse(f"{label} has dimensions {str(dims)[:100]}; expected at most 2 GiB")
        return elements

    def check_data(self, label: str, data_type: int, elements: int, dims: list[int], counts: Counter[int]) -> None:
        """The data must be there, once, in a field for its type, and as much as the dimensions say."""
        kind, bits = ELEMENT_TYPES[data_type]
        if len(counts) > 1:
            self.refuse(f"{label} has its data twice, in fields {sorted(counts)}")
        number, count = next(iter(counts.items()), (9, 0))
        if number == 9:
            expected, unit = -(-elements * bits // 8), "bytes"
            fits = data_type != STRING or not count
        else:
            per_element = 2 if data_type in (14, 15) else 1
            expected, unit = elements * per_element, "values"
            if number == 5 and data_type in SUB_BYTE_TYPES:
                expected = -(-elements * bits // 8)  # a byte of packed elements a value
            fits = data_type in TYPES_OF_DATA_FIELD[number] or (number == 5 and data_type in SUB_BYTE_TYPES)
        if not fits or count != expected:
            self.refuse(
                f"{label} is {kind} {str(dims)[:100]} and holds {count} {unit} in field {number}; expected {expected}"
            )

    def int64_values(self, values: list[Span | int], raw: bool) -> list[int]:
        if not raw:
            return [number for value in values for number in self.numbers(value)]
        begin, end = next(span for span in map(read_span, values) if span[1] > span[0])
        return list(struct.unpack(f"<{(end - begin) // 8}q", self.data[begin:end]))

    def sparse_tensor(self, span: Span) -> None:
        dims: list[int] = []
        for number, value in self.fields(span, "SparseTensorProto"):
            if number == 3:
                dims += self.numbers(value)
            else:
                self.inner(self.constant, value)
        self.elements("a sparse tensor", 1, dims)

    def value_info(self, span: Span) -> None:
        self.value(span)

    def value(self, span: Span) -> OnnxTensor:
        name, element_type, shape = "", "unknown", None
        for number, value in self.fields(span, "ValueInfoProto"):
            if number == 1:
                name = self.text(value)
            else:
                element_type, shape = self.type(read_span(value))
        self.check_shape(name, element_type, shape)
        return OnnxTensor(name, element_type, shape)

    def check_shape(self, name: str, element_type: str, shape: Shape | None) -> None:
        sizes = [size for size in shape or () if isinstance(size, int)]
        if len(sizes) > LONGEST_SHAPE or any(size < 0 for size in sizes):
            self.refuse(f"{name!r:.100} has the shape {str(sizes)[:100]}; expected sizes from 0")
        bits = next((bits for kind, bits in ELEMENT_TYPES.values() if kind == element_type), 8)
        if math.prod(max(size, 1) for size in sizes) * bits > 8 * LARGEST_BYTES:
            self.refuse(f"{name!r:.100} is {element_type} {str(sizes)[:100]}; expected at most 2 GiB")

    def type(self, span: Span) -> tuple[str, Shape | None]:
        kind, shape = "unknown", None
        for number, value in self.fields(span, "TypeProto"):
            if number in (1, 8):
                kind, shape = self.tensor_type(read_span(value))
            elif number != 7:  # an opaque type holds two names
                self.inner(self.map_type if number == 5 else self.sequence_type, value)
                kind = {4: "sequence", 5: "map", 9: "optional"}[number]
        return kind, shape

    def sequence_type(self, span: Span) -> None:
        for _, value in self.fields(span, "TypeProto.Sequence"):
            self.inner(self.type_of_attribute, value)

    def map_type(self, span: Span) -> None:
        for _, value in self.fields(span, "TypeProto.Map"):
            self.inner(self.type_of_attribute, value)

    def tensor_type(self, span: Span) -> tuple[str, Shape | None]:
        kind, shape = "unknown", None
        for number, value in self.fields(span, "TypeProto.Tensor"):
            if number == 1:
                kind = ELEMENT_TYPES.get(read_signed(read_number(value), 32), ("unknown", 8))[0]
            else:
                shape = tuple(
                    self.dimension(read_span(dim)) for _, dim in self.fields(read_span(value), "TensorShapeProto")
                )
        return kind, shape

    def dimension(self, span: Span) -> int | str | None:
        found: int | str | None = None
        for number, value in self.fields(span, "TensorShapeProto.Dimension"):
            found = read_signed(read_number(value), 64) if number == 1 else self.text(value) or None
        return found


@dataclass
class _Graph:
    inputs: list[OnnxTensor]
    outputs: list[OnnxTensor]
    initializers: set[str]
    parameters: int


def _leaves_folder(model: Path, location: str) -> bool:
    """Whether a path beside `model` leads out of its folder: absolute, by `..`, or over a link."""
    windows = PureWindowsPath(location)
    if windows.drive or windows.root or ".." in windows.parts:  # it parses POSIX paths too
        return True
    try:
        folder = model.parent.resolve()
        return not (folder / location).resolve().is_relative_to(folder)
    except (OSError, ValueError, RuntimeError):  # no path at all, or links in a circle
        return True
