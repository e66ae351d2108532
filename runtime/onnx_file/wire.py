"""A reader of protobuf's wire format that does not trust the bytes.

https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn, TypeAlias

from ssd_edge.errors import ModelFileError
from ssd_edge.runtime.onnx_file.file import REMEDY
from ssd_edge.runtime.onnx_file.schema import BYTES, FIELDS, FIXED32, FIXED64, VARINT

MOST_FIELDS = 1_000_000  # an SSD has a few thousand
LONGEST_TEXT = 1 << 22
DEEPEST = 60  # messages in messages; a graph inside a node takes three. Protobuf's own limit is 100
Span: TypeAlias = tuple[int, int]  # where a field's bytes begin and end in the file


class WireReader:
    """The messages in the bytes of one file.

    Every method raises ModelFileError where the bytes are damaged, nested too deep, or too many.
    """

    def __init__(self, path: Path, data: mmap.mmap | bytes) -> None:
        self.path = path
        self.data = data
        self.left = MOST_FIELDS
        self.depth = 0

    def refuse(self, problem: str) -> NoReturn:
        """For a file that may be whole, but should not be opened."""
        raise ModelFileError(f"{self.path}: {problem}; {REMEDY}")

    def damaged(self, problem: str) -> NoReturn:
        """For a file that cannot be read."""
        raise ModelFileError(
            f"{self.path}: cannot load it: no ONNX file, or a damaged one ({problem}); copy it again, or {REMEDY}"
        )

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
        """A string, which must not be very long."""
        begin, end = read_span(span)
        if end - begin > LONGEST_TEXT:
            self.refuse(f"a name or text of {(end - begin) / 1e6:.0f} MB; expected at most {LONGEST_TEXT >> 20} MiB")
        return bytes(self.data[begin:end]).decode("utf-8", errors="replace")

    def entry(self, span: Span) -> tuple[str, str]:
        """Key and value of a StringStringEntryProto."""
        found = {1: "", 2: ""}
        for number, value in self.fields(span, "StringStringEntryProto"):
            found[number] = self.text(value)
        return found[1], found[2]

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

    def inner(self, walk: Callable[[Span], object], value: int | Span) -> None:
        """Walk a message inside a message, not too deep."""
        self.depth += 1
        if self.depth > DEEPEST:
            self.refuse(f"graphs, sequences or maps inside each other more than {DEEPEST} messages deep")
        walk(read_span(value))
        self.depth -= 1


def read_span(value: int | Span) -> Span:
    """The value of a field of bytes."""
    assert isinstance(value, tuple)  # `FIELDS` has seen to it
    return value


def read_number(value: int | Span) -> int:
    """The value of a field that is a number."""
    assert isinstance(value, int)  # `FIELDS` has seen to it
    return value


def read_signed(value: int, bits: int) -> int:
    """A varint as protobuf's int64, int32 or enum: cut to its width, in two's complement."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value
