"""What an ONNX file says is read rightly, and what a runtime should not be given is refused."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from ssd_edge.bundled import bundled_model
from ssd_edge.errors import ModelFileError
from ssd_edge.runtime.detector import open_detector
from ssd_edge.runtime.onnx_file import walk
from ssd_edge.runtime.onnx_file.check import check_onnx_file
from ssd_edge.runtime.onnx_file.file import OnnxTensor, contract_misfits

FLOAT = TensorProto.FLOAT


def make_model(
    *, nodes: list | None = None, initializers: list | None = None, shape: list | None = None
) -> onnx.ModelProto:
    """y = x + w, or what `nodes` make of x."""
    graph = helper.make_graph(
        nodes or [helper.make_node("Add", ["x", "w"], ["y"])],
        "adds",
        [helper.make_tensor_value_info("x", FLOAT, shape or ["batch", 2])],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [numpy_helper.from_array(np.array([1, 2], np.float32), "w")] if initializers is None else initializers,
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)])


def external_tensor(name: str = "w", location: str | None = "weights.bin") -> TensorProto:
    tensor = TensorProto(name=name, dims=[2], data_type=FLOAT, data_location=TensorProto.EXTERNAL)
    if location is not None:
        tensor.external_data.add(key="location", value=location)
    return tensor


@pytest.fixture
def write(tmp_path: Path) -> Callable[[onnx.ModelProto | bytes], Path]:
    def write(model: onnx.ModelProto | bytes) -> Path:
        path = tmp_path / "model.onnx"
        path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
        return path

    return write


Write = Callable[[onnx.ModelProto | bytes], Path]


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


TYPED = [
    helper.make_tensor("t", TensorProto.FLOAT, [2, 3], range(6)),
    helper.make_tensor("t", TensorProto.FLOAT, [], [1]),
    helper.make_tensor("t", TensorProto.FLOAT, [0, 3], []),
    helper.make_tensor("t", TensorProto.INT64, [3], [-1, 0, 1 << 62]),
    helper.make_tensor("t", TensorProto.INT32, [2], [-1, 300]),
    helper.make_tensor("t", TensorProto.INT8, [2], [-1, 3]),
    helper.make_tensor("t", TensorProto.UINT64, [2], [1, 1 << 63]),
    helper.make_tensor("t", TensorProto.DOUBLE, [1], [0.5]),
    helper.make_tensor("t", TensorProto.FLOAT16, [2], [0.5, 1]),
    helper.make_tensor("t", TensorProto.BOOL, [2], [True, False]),
    helper.make_tensor("t", TensorProto.STRING, [2], [b"a", b""]),
    helper.make_tensor("t", TensorProto.COMPLEX64, [1], [1 + 2j]),
    helper.make_tensor("t", TensorProto.INT4, [3], [1, -2, 3]),
    numpy_helper.from_array(np.zeros((2, 2), np.float16), "t"),
]


@pytest.mark.parametrize("tensor", TYPED, ids=lambda tensor: TensorProto.DataType.Name(tensor.data_type))
def test_every_way_to_store_a_tensor_is_known_and_measured(write: Write, tensor: TensorProto) -> None:
    model = make_model(initializers=[tensor])
    assert check_onnx_file(write(model)).parameters == int(np.prod(tensor.dims))
    tensor = TensorProto.FromString(tensor.SerializeToString())
    tensor.dims.append(7)
    if tensor.dims[0]:
        with pytest.raises(ModelFileError, match=r"tensor 't' is .* and holds \d+ (values|bytes) in field"):
            check_onnx_file(write(make_model(initializers=[tensor])))


def _if_node(inner: onnx.GraphProto) -> onnx.NodeProto:
    return helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)


def _inner_graph(tensor: TensorProto) -> onnx.GraphProto:
    return helper.make_graph([helper.make_node("Identity", ["w"], ["o"])], "inner", [], [], [tensor])


def _sparse(**parts: TensorProto) -> onnx.SparseTensorProto:
    good = {
        "values": numpy_helper.from_array(np.ones(1, np.float32), "v"),
        "indices": numpy_helper.from_array(np.zeros(1, np.int64), "i"),
    }
    return onnx.SparseTensorProto(dims=[4], **(good | parts))


def _external_models() -> dict[str, onnx.ModelProto]:
    """External data in every place of onnx.proto3 where a tensor may be."""
    bad = external_tensor()
    models = {
        "initializer": make_model(initializers=[bad]),
        "entries without the flag": make_model(initializers=[numpy_helper.from_array(np.ones(2, np.float32), "w")]),
        "constant": make_model(nodes=[helper.make_node("Constant", [], ["y"], value=bad)]),
        "list of tensors": make_model(),
        "subgraph": make_model(nodes=[_if_node(_inner_graph(bad))]),
        "list of graphs": make_model(),
        "sparse values": make_model(),
        "sparse indices": make_model(),
        "sparse attribute": make_model(
            nodes=[helper.make_node("Constant", [], ["y"], sparse_value=_sparse(values=bad))]
        ),
        "function": make_model(),
        "default of a function": make_model(),
        "training": make_model(),
    }
    models["entries without the flag"].graph.initializer[0].external_data.add(key="location", value="weights.bin")
    models["list of tensors"].graph.node[0].attribute.add(name="a", type=9).tensors.append(bad)
    models["list of graphs"].graph.node[0].attribute.add(name="a", type=10).graphs.append(_inner_graph(bad))
    models["sparse values"].graph.sparse_initializer.append(_sparse(values=bad))
    models["sparse indices"].graph.sparse_initializer.append(_sparse(indices=bad))
    node = helper.make_node("Constant", [], ["o"], value=bad)
    models["function"].functions.append(helper.make_function("d", "F", [], ["o"], [node], []))
    default = helper.make_function("d", "F", [], [], [], [])
    default.attribute_proto.add(name="a", type=4).t.CopyFrom(bad)
    models["default of a function"].functions.append(default)
    models["training"].training_info.add().algorithm.CopyFrom(_inner_graph(bad))
    return models


@pytest.mark.parametrize("place", _external_models())
def test_external_data_is_refused_wherever_it_is(write: Write, place: str) -> None:
    with pytest.raises(ModelFileError, match=r"tensor 'w' keeps its data in another file 'weights\.bin'; expected one"):
        check_onnx_file(write(_external_models()[place]))


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


def with_initializer(tensor: bytes) -> bytes:
    """The bytes of a model with an initializer that the onnx package would not write."""
    assert len(tensor) < 128
    graph = make_model(initializers=[]).graph.SerializeToString() + bytes([5 << 3 | 2, len(tensor)]) + tensor
    model = make_model()
    model.ClearField("graph")
    return model.SerializeToString() + bytes([7 << 3 | 2]) + varint(len(graph)) + graph


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


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


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (["batch", 8193, 8193, 3], "input x: float .*8193.*; expected sizes up to 8192"),
        (["batch", -1], r"'x' has the shape \[-1\]"),
        ([8192, 8192, 8192], "'x' is float .*at most 2 GiB"),
    ],
)
def test_absurd_input_sizes(write: Write, shape: list, message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        check_onnx_file(write(make_model(shape=shape)))


@pytest.mark.parametrize("op_type", ["ConstantOfShape", "Expand", "Tile"])
@pytest.mark.parametrize("raw", [True, False])
def test_a_small_operator_that_makes_a_huge_tensor(write: Write, op_type: str, raw: bool) -> None:
    sizes = np.array([1 << 20, 1 << 20], np.int64)
    inputs = ["n"] if op_type == "ConstantOfShape" else ["x", "n"]
    tensor = numpy_helper.from_array(sizes, "n") if raw else helper.make_tensor("n", TensorProto.INT64, [2], sizes)
    model = make_model(nodes=[helper.make_node(op_type, inputs, ["y"], name="big")], initializers=[tensor])
    with pytest.raises(ModelFileError, match=f"{op_type} 'big' makes a tensor of .*at most 2 GiB"):
        check_onnx_file(write(model))


@pytest.mark.parametrize("op_type", ["ConstantOfShape", "Expand", "Tile", "Range"])
def test_a_size_hidden_in_a_constant_node(write: Write, op_type: str) -> None:
    for hidden in ({"value": helper.make_tensor("", TensorProto.INT64, [2], [1 << 20] * 2)}, {"value_ints": [1 << 30]}):
        inputs = {"ConstantOfShape": ["n"], "Range": ["x", "n", "x"]}.get(op_type, ["x", "n"])
        nodes = [
            helper.make_node("Constant", [], ["n"], **hidden),
            helper.make_node(op_type, inputs, ["y"], name="big"),
        ]
        with pytest.raises(ModelFileError, match=f"{op_type} 'big' makes a tensor whose size is in a Constant node"):
            check_onnx_file(write(make_model(nodes=nodes)))


def test_graphs_inside_graphs_end_somewhere(write: Write) -> None:
    graph = helper.make_graph([], "deepest", [], [])
    for _ in range(30):
        graph = helper.make_graph(
            [_if_node(graph)] if graph.name == "deepest" else [helper.make_node("If", ["x"], ["y"], then_branch=graph)],
            "g",
            [],
            [],
        )
    model = make_model(nodes=[helper.make_node("If", ["x"], ["y"], then_branch=graph)])
    with pytest.raises(ModelFileError, match="60 messages deep"):
        check_onnx_file(write(model))


def test_types_inside_types_end_somewhere(write: Write) -> None:
    inner = b""
    for _ in range(500):  # TypeProto.sequence_type.elem_type; the onnx package cannot write as many
        inner = bytes([1 << 3 | 2]) + varint(len(inner)) + inner
        inner = bytes([4 << 3 | 2]) + varint(len(inner)) + inner
    value = b"\x0a\x01s" + bytes([2 << 3 | 2]) + varint(len(inner)) + inner
    graph = make_model().graph.SerializeToString() + bytes([13 << 3 | 2]) + varint(len(value)) + value
    model = make_model()
    model.ClearField("graph")
    with pytest.raises(ModelFileError, match="60 messages deep"):
        check_onnx_file(write(model.SerializeToString() + bytes([7 << 3 | 2]) + varint(len(graph)) + graph))


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
    monkeypatch.setattr(walk, "MOST_FIELDS", 1000)
    with pytest.raises(ModelFileError, match="more than 1,000 protobuf fields"):
        check_onnx_file(write(make_model().SerializeToString() + b"\x28\x01" * 2000))  # model_version
    dims = bytes([1 << 3 | 2]) + varint(2000) + b"\x01" * 2000
    with pytest.raises(ModelFileError, match="more than 1,000 dimensions"):
        check_onnx_file(write(with_large_initializer(dims)))


def with_large_initializer(tensor: bytes) -> bytes:
    graph = make_model(initializers=[]).graph.SerializeToString() + bytes([5 << 3 | 2]) + varint(len(tensor)) + tensor
    model = make_model()
    model.ClearField("graph")
    return model.SerializeToString() + bytes([7 << 3 | 2]) + varint(len(graph)) + graph


def test_a_text_that_is_no_name(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "LONGEST_TEXT", 10)
    model = make_model()
    helper.set_model_props(model, {"key": "x" * 11})
    with pytest.raises(ModelFileError, match="a name or text of"):
        check_onnx_file(write(model))


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


def small_but_full() -> bytes:
    """A model with something of everything."""
    model = make_model(nodes=[_if_node(_inner_graph(numpy_helper.from_array(np.ones(2, np.float32), "w")))])
    model.graph.sparse_initializer.append(_sparse())
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=TYPED[3], doc_string="a node"))
    model.graph.initializer.append(helper.make_tensor("n", TensorProto.INT64, [2], [3, 4]))
    model.graph.node.append(helper.make_node("ConstantOfShape", ["n"], ["d"]))
    model.graph.value_info.append(helper.make_tensor_sequence_value_info("s", FLOAT, [1]))
    model.functions.append(helper.make_function("d", "F", ["a"], ["o"], [helper.make_node("Relu", ["a"], ["o"])], []))
    helper.set_model_props(model, {"key": "value"})
    return model.SerializeToString()


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
            walk.Walk(tmp_path / "model.onnx", bytes(data)).model()
        except ModelFileError:
            refused += 1
        slowest = max(slowest, time.perf_counter() - begin)
    assert 1000 < refused < 4000
    assert slowest < 1


def test_a_detector_refuses_before_onnx_runtime_sees_the_file(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*_: object, **__: object) -> None:
        raise AssertionError("ONNX Runtime was given the file")

    monkeypatch.setattr(ort, "InferenceSession", opened)
    with pytest.raises(ModelFileError, match="keeps its data in another file"):
        open_detector(write(make_model(initializers=[external_tensor()])))


def test_a_model_of_another_tool_is_told_what_does_not_fit(write: Write) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Relu", ["input"], ["boxes"]),
            helper.make_node("NonMaxSuppression", ["boxes", "boxes"], ["detections"]),
        ],
        "theirs",
        [helper.make_tensor_value_info("input", FLOAT, [1, 3, 300, 300])],
        [helper.make_tensor_value_info("detections", TensorProto.INT64, ["found", 3])],
    )
    with pytest.raises(ModelFileError) as caught:
        open_detector(write(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)])))
    for part in (
        "no model card",
        "inputs ['input'] and outputs ['detections']; expected input images and outputs boxes and scores",
        "input input: float [1, 3, 300, 300]; expected uint8 RGB pixels, with the normalisation inside the graph",
        "colour planes first; expected [batch, height, width, 3]",
        "the batch of input input is fixed at 1; expected a dynamic first dimension",
        "NonMaxSuppression is inside the graph; expected all boxes and scores",
        "ssd-edge export",
    ):
        assert part in str(caught.value)
