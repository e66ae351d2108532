"""Tensors: every way to store one is measured, and data that is elsewhere or does not fit is refused."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ssd_edge.errors import ModelFileError
from ssd_edge.runtime.onnx_file.check import check_onnx_file
from tests.runtime.onnx_file.models import (
    FLOAT,
    TYPED,
    Write,
    external_tensor,
    if_node,
    inner_graph,
    make_model,
    sparse,
    with_initializer,
)


@pytest.mark.parametrize("tensor", TYPED, ids=lambda tensor: TensorProto.DataType.Name(tensor.data_type))
def test_every_way_to_store_a_tensor_is_known_and_measured(write: Write, tensor: TensorProto) -> None:
    model = make_model(initializers=[tensor])
    assert check_onnx_file(write(model)).parameters == int(np.prod(tensor.dims))
    tensor = TensorProto.FromString(tensor.SerializeToString())
    tensor.dims.append(7)
    if tensor.dims[0]:
        with pytest.raises(ModelFileError, match=r"tensor 't' is .* and holds \d+ (values|bytes) in field"):
            check_onnx_file(write(make_model(initializers=[tensor])))


def external_models() -> dict[str, onnx.ModelProto]:
    """External data in every place of onnx.proto3 where a tensor may be."""
    bad = external_tensor()
    models = {
        "initializer": make_model(initializers=[bad]),
        "entries without the flag": make_model(initializers=[numpy_helper.from_array(np.ones(2, np.float32), "w")]),
        "constant": make_model(nodes=[helper.make_node("Constant", [], ["y"], value=bad)]),
        "list of tensors": make_model(),
        "subgraph": make_model(nodes=[if_node(inner_graph(bad))]),
        "list of graphs": make_model(),
        "sparse values": make_model(),
        "sparse indices": make_model(),
        "sparse attribute": make_model(
            nodes=[helper.make_node("Constant", [], ["y"], sparse_value=sparse(values=bad))]
        ),
        "function": make_model(),
        "default of a function": make_model(),
        "training": make_model(),
    }
    models["entries without the flag"].graph.initializer[0].external_data.add(key="location", value="weights.bin")
    models["list of tensors"].graph.node[0].attribute.add(name="a", type=9).tensors.append(bad)
    models["list of graphs"].graph.node[0].attribute.add(name="a", type=10).graphs.append(inner_graph(bad))
    models["sparse values"].graph.sparse_initializer.append(sparse(values=bad))
    models["sparse indices"].graph.sparse_initializer.append(sparse(indices=bad))
    node = helper.make_node("Constant", [], ["o"], value=bad)
    models["function"].functions.append(helper.make_function("d", "F", [], ["o"], [node], []))
    default = helper.make_function("d", "F", [], [], [], [])
    default.attribute_proto.add(name="a", type=4).t.CopyFrom(bad)
    models["default of a function"].functions.append(default)
    models["training"].training_info.add().algorithm.CopyFrom(inner_graph(bad))
    return models


@pytest.mark.parametrize("place", external_models())
def test_external_data_is_refused_wherever_it_is(write: Write, place: str) -> None:
    with pytest.raises(ModelFileError, match=r"tensor 'w' keeps its data in another file 'weights\.bin'; expected one"):
        check_onnx_file(write(external_models()[place]))


@pytest.mark.parametrize(
    "location",
    ["/etc/passwd", "../weights.bin", "a/../../b", "C:\\weights.bin", "..\\b", "\\\\host\\b", "out/b", "loop", "a\0b"],
)
def test_a_path_that_leaves_the_folder_is_said_to(write: Write, tmp_path: Path, location: str) -> None:
    (tmp_path / "out").symlink_to("/")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ModelFileError, match=r"tensor .w. .*which leaves the folder of the model"):
        check_onnx_file(write(make_model(initializers=[external_tensor(location=location)])))


def test_external_data_without_a_place_is_refused(write: Write) -> None:
    with pytest.raises(ModelFileError, match="tensor 'w' keeps its data in another file; expected"):
        check_onnx_file(write(make_model(initializers=[external_tensor(location=None)])))


def test_the_flag_is_seen_however_it_is_written(write: Write) -> None:
    """Protobuf cuts an enum to 32 bits: 2**32 + 1 is EXTERNAL to it."""
    tensor = numpy_helper.from_array(np.ones(2, np.float32), "w").SerializeToString()
    flag = bytes([14 << 3]) + b"\x81\x80\x80\x80\x10"  # data_location = 2**32 + 1
    assert TensorProto.FromString(tensor + flag).data_location == TensorProto.EXTERNAL
    with pytest.raises(ModelFileError, match="'w' keeps its data in another file"):
        check_onnx_file(write(with_initializer(tensor + flag)))


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        ([-1, 2], "negative dimension"),
        ([1 << 62, 1 << 62], r"dimensions \[4611686018427387904, .*at most 2 GiB"),
        ([3], r"is float \[3\] and holds 8 bytes in field 9; expected 12"),
        ([], r"holds 8 bytes in field 9; expected 4"),
        ([0], r"holds 8 bytes in field 9; expected 0"),
        ([1] * 100, "at most 2 GiB"),
    ],
)
def test_dimensions_that_are_not_those_of_the_data(write: Write, dims: list[int], message: str) -> None:
    tensor = TensorProto(name="w", data_type=FLOAT, dims=dims, raw_data=bytes(8))
    with pytest.raises(ModelFileError, match=f"tensor 'w'.*{message}"):
        check_onnx_file(write(make_model(initializers=[tensor])))


def test_data_of_another_type_or_in_two_places_or_of_no_type(write: Write) -> None:
    cases = [
        (TensorProto(name="w", data_type=FLOAT, dims=[1], int64_data=[1]), "holds 1 values in field 7"),
        (TensorProto(name="w", data_type=FLOAT, dims=[1], float_data=[1], raw_data=bytes(4)), "data twice"),
        (TensorProto(name="w", data_type=FLOAT, dims=[1]), "holds 0 bytes"),
        (TensorProto(name="w", data_type=0, dims=[1]), "element type 0"),
        (TensorProto(name="w", data_type=99, dims=[1]), "element type 99"),
    ]
    for tensor, message in cases:
        with pytest.raises(ModelFileError, match=f"tensor 'w'.*{message}"):
            check_onnx_file(write(make_model(initializers=[tensor])))
