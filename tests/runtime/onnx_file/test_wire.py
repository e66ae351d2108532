"""Bytes that two parsers may read in two ways, floods, cut files, flipped bytes."""

import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from ssd_edge.errors import ModelFileError
from ssd_edge.runtime.onnx_file import wire
from ssd_edge.runtime.onnx_file.check import check_onnx_file
from ssd_edge.runtime.onnx_file.walk import Walk
from tests.runtime.onnx_file.models import (
    Write,
    make_model,
    small_but_full,
    varint,
    with_initializer,
)


def test_what_two_parsers_may_read_in_two_ways_is_refused(write: Write) -> None:
    whole = make_model().SerializeToString()
    second_graph = make_model().graph.SerializeToString()
    cases = [
        (whole + bytes([7 << 3 | 2]) + varint(len(second_graph)) + second_graph, "ModelProto field 7 occurs twice"),
        (whole + bytes([7 << 3 | 0, 1]), "ModelProto field 7 has wire type 0"),
        (whole + bytes([30 << 3 & 0x7F | 3]), "wire type 3"),  # a group
        (whole + b"\x00", "field number 0"),
        (whole + b"\x88" * 11, "more than 10 bytes"),
        (with_initializer(b"\x08\x02\x12\x01\x01"), "TensorProto field 2 has wire type 2"),
    ]
    for data, message in cases:
        with pytest.raises(ModelFileError, match=message):
            check_onnx_file(write(data))


def test_a_flood_of_fields_ends_soon(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MOST_FIELDS", 1000)
    with pytest.raises(ModelFileError, match="more than 1,000 protobuf fields"):
        check_onnx_file(write(make_model().SerializeToString() + b"\x28\x01" * 2000))  # model_version
    dims = bytes([1 << 3 | 2]) + varint(2000) + b"\x01" * 2000
    with pytest.raises(ModelFileError, match="more than 1,000 dimensions"):
        check_onnx_file(write(with_initializer(dims)))


def test_a_text_that_is_no_name(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "LONGEST_TEXT", 10)
    model = make_model()
    helper.set_model_props(model, {"key": "x" * 11})
    with pytest.raises(ModelFileError, match="a name or text of"):
        check_onnx_file(write(model))


def test_a_file_cut_anywhere_is_refused(write: Write) -> None:
    whole = small_but_full()
    check_onnx_file(write(whole))
    readable = []
    for size in range(len(whole)):
        try:
            check_onnx_file(write(whole[:size]))
        except ModelFileError:
            continue
        readable.append(size)
        onnx.load_from_string(whole[:size])  # cut between two fields: a whole message, without what came after
    assert len(readable) <= 6


def test_flipped_bytes_give_an_answer_or_our_error_and_soon(tmp_path: Path) -> None:
    whole, random = small_but_full(), np.random.default_rng(0)
    refused, slowest = 0, 0.0
    for _ in range(4000):
        data = bytearray(whole)
        for position in random.integers(0, len(data), random.integers(1, 4)):
            data[position] = random.integers(0, 256)
        begin = time.perf_counter()
        try:
            Walk(wire.WireReader(tmp_path / "model.onnx", bytes(data))).model()
        except ModelFileError:
            refused += 1
        slowest = max(slowest, time.perf_counter() - begin)
    assert 1000 < refused < 4000
    assert slowest < 1
