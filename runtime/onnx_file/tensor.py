"""Tensors of an ONNX file: their data is in the file, once, and as much as their dimensions say."""

from __future__ import annotations

import math
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import NoReturn

import numpy as np

from ssd_edge.errors import ModelFileError
from ssd_edge.runtime.onnx_file.file import LARGEST_BYTES
from ssd_edge.runtime.onnx_file.schema import ELEMENT_TYPES, INT64, STRING, SUB_BYTE_TYPES, TYPES_OF_DATA_FIELD
from ssd_edge.runtime.onnx_file.wire import Span, WireReader, read_number, read_signed, read_span

LONGEST_SHAPE = 64  # values of a constant that may be a shape


@dataclass(frozen=True)
class Tensor:
    """What is read of a tensor.

    Attributes:
        name: empty where it has none.
        elements: how many.
        shape: its values, where it may be a shape for a node: int64, short, and with a name.
    """

    name: str
    elements: int
    shape: list[int] | None


def read_tensor(reader: WireReader, span: Span) -> Tensor:
    """Read a TensorProto.

    Raises:
        ModelFileError: its data is elsewhere, or does not fit its type and dimensions.
    """
    dims: list[int] = []
    external: dict[str, str] = {}
    counts: Counter[int] = Counter()
    name, data_type, location = "", 0, 0
    values: list[Span | int] = []
    for number, value in reader.fields(span, "TensorProto"):
        if number == 1:
            dims += reader.numbers(value)
        elif number == 2:
            data_type = read_signed(read_number(value), 32)
        elif number == 8:
            name = reader.text(value)
        elif number == 13:
            key, entry = reader.entry(read_span(value))
            external[key] = entry
        elif number == 14:
            location = read_signed(read_number(value), 32)
        elif number == 9:
            begin, end = read_span(value)
            counts[number] = end - begin
            values.append(value)
        else:
            counts[number] += _count(reader, number, value)
            values.append(value)
    label = f"tensor {name!r:.100}" if name else "an unnamed tensor"
    if location or external:
        _refuse_external(reader, label, external)
    elements = count_elements(reader, label, data_type, dims)
    _check_data(reader, label, data_type, elements, dims, +counts)
    may_be_shape = data_type == INT64 and elements <= LONGEST_SHAPE and name
    return Tensor(name, elements, _int64_values(reader, values, raw=counts[9] > 0) if may_be_shape else None)


def _count(reader: WireReader, number: int, value: int | Span) -> int:
    """How many values a data field of a tensor holds, which may come in packed pieces."""
    if number == 6 or isinstance(value, int):
        return 1
    begin, end = value
    if number in (4, 10):
        size = 4 if number == 4 else 8
        if (end - begin) % size:
            reader.damaged(f"{end - begin} bytes of {8 * size}-bit numbers at byte {begin}")
        return (end - begin) // size
    # A varint ends with the byte whose high bit is clear.
    return int(np.count_nonzero(np.frombuffer(reader.data, np.uint8, end - begin, begin) < 0x80))


def _refuse_external(reader: WireReader, label: str, external: dict[str, str]) -> NoReturn:
    location = external.get("location", "")
    leaves = ", which leaves the folder of the model" if _leaves_folder(reader.path, location) else ""
    where = f" {location!r:.200}{leaves}" if location else ""
    raise ModelFileError(
        f"{reader.path}: {label} keeps its data in another file{where}; expected one file that holds everything: "
        "if you trust its source, load it with onnx.load and save it with onnx.save, whose default is one file"
    )


def count_elements(reader: WireReader, label: str, data_type: int, dims: list[int]) -> int:
    """The product of the dimensions, which must be sensible.

    Raises:
        ModelFileError: they are not, or ONNX has no such element type.
    """
    if data_type not in ELEMENT_TYPES:
        reader.refuse(f"{label} has element type {data_type}, which ONNX does not have")
    if any(size < 0 for size in dims):
        reader.refuse(f"{label} has a negative dimension: {str(dims)[:100]}")
    elements = math.prod(dims) if len(dims) <= LONGEST_SHAPE else LARGEST_BYTES + 1
    if elements * ELEMENT_TYPES[data_type][1] > 8 * LARGEST_BYTES:
        reader.refuse(f"{label} has dimensions {str(dims)[:100]}; expected at most 2 GiB")
    return elements


def _check_data(
    reader: WireReader, label: str, data_type: int, elements: int, dims: list[int], counts: Counter[int]
) -> None:
    """The data must be there, once, in a field for its type, and as much as the dimensions say."""
    kind, bits = ELEMENT_TYPES[data_type]
    if len(counts) > 1:
        reader.refuse(f"{label} has its data twice, in fields {sorted(counts)}")
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
        reader.refuse(
            f"{label} is {kind} {str(dims)[:100]} and holds {count} {unit} in field {number}; expected {expected}"
        )


def _int64_values(reader: WireReader, values: list[Span | int], raw: bool) -> list[int]:
    if not raw:
        return [number for value in values for number in reader.numbers(value)]
    begin, end = next(span for span in map(read_span, values) if span[1] > span[0])
    return list(struct.unpack(f"<{(end - begin) // 8}q", reader.data[begin:end]))


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
