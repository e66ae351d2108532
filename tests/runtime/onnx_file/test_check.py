"""What an ONNX file says is read rightly, and what is no such file is refused."""

import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from ssd_edge.bundled import bundled_model
from ssd_edge.errors import ModelFileError
from ssd_edge.runtime.detector import open_detector
from ssd_edge.runtime.onnx_file.check import check_onnx_file
from ssd_edge.runtime.onnx_file.contract import contract_misfits
from ssd_edge.runtime.onnx_file.file import OnnxTensor
from tests.runtime.onnx_file.models import (
    FLOAT,
    Write,
    external_tensor,
    make_model,
)


def test_it_tells_what_the_file_is(write: Write) -> None:
    model = make_model()
    model.producer_name = "a test"
    model.graph.node.add(op_type="Own", domain="my.domain", output=["z"])
    helper.set_model_props(model, {"key": "value", "empty": ""})
    file = check_onnx_file(write(model))
    assert (file.ir_version, file.opset, file.producer) == (8, 18, "a test")
    assert file.inputs == (OnnxTensor("x", "float", ("batch", 2)),)
    assert file.outputs == (OnnxTensor("y", "float", None),)
    assert dict(file.metadata) == {"key": "value", "empty": ""}
    assert dict(file.operators) == {"Add": 1, "my.domain::Own": 1}
    assert (file.parameters, file.size_bytes) == (2, len(model.SerializeToString()))


def test_it_reads_the_bundled_model_as_onnx_and_onnx_runtime_do() -> None:
    path = bundled_model()
    file, model = check_onnx_file(path), onnx.load(path)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for ours, theirs in ((file.inputs, session.get_inputs()), (file.outputs, session.get_outputs())):
        assert [(t.name, f"tensor({t.element_type})", list(t.shape or ())) for t in ours] == [
            (t.name, t.type, t.shape) for t in theirs
        ]
    assert dict(file.metadata) == session.get_modelmeta().custom_metadata_map
    assert file.parameters == sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)
    assert sum(file.operators.values()) == len(model.graph.node)
    assert contract_misfits(file) == ()


def test_an_initializer_is_no_input_even_where_it_is_listed_as_one(write: Write) -> None:
    model = make_model()
    model.graph.input.append(helper.make_tensor_value_info("w", FLOAT, [2]))
    assert [tensor.name for tensor in check_onnx_file(write(model)).inputs] == ["x"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"this is no protobuf", "no ONNX file, or a damaged one"),
        (b"\x80", "ends inside a number at byte 1"),
        (b"PK\x03\x04" + bytes(100), "no ONNX file, or a damaged one"),
        (b"\x08\x08", "no graph with outputs"),
    ],
)
def test_what_is_no_onnx_file(write: Write, data: bytes, message: str) -> None:
    with pytest.raises(ModelFileError, match=rf"model\.onnx: cannot load it: .*{message}"):
        check_onnx_file(write(data))


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")  # opening it would wait for a writer
    (tmp_path / "large.onnx").touch()
    os.truncate(tmp_path / "large.onnx", (1 << 31) + 1)  # sparse
    for name, message in (("pipe", "not a file"), ("large", "at most 2 GiB"), ("none", "No such file")):
        with pytest.raises(ModelFileError, match=message):
            check_onnx_file(tmp_path / f"{name}.onnx")
    with pytest.raises(ModelFileError, match=r"directory|not a file"):
        check_onnx_file(tmp_path)


def test_a_detector_refuses_before_onnx_runtime_sees_the_file(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*_: object, **__: object) -> None:
        raise AssertionError("ONNX Runtime was given the file")

    monkeypatch.setattr(ort, "InferenceSession", opened)
    with pytest.raises(ModelFileError, match="keeps its data in another file"):
        open_detector(write(make_model(initializers=[external_tensor()])))
