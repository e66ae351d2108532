"""The protobuf wire format of ONNX: which fields a message has, and how its numbers are read."""

from __future__ import annotations

from typing import TypeAlias

MOST_FIELDS = 1_000_000  # an SSD has a few thousand
LONGEST_TEXT = 1 << 22
Span: TypeAlias = tuple[int, int]  # where a field's bytes begin and end in the file
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types; 3 and 4, groups, are in no ONNX file
# Field numbers of onnx.proto3 that are read here: (wire types, whether it may occur again). The rest is passed over.
ONE, MANY, ONE_VARINT, PACKED_VARINTS = ((BYTES,), False), ((BYTES,), True), ((VARINT,), False), ((VARINT, BYTES), True)
PACKED_32, PACKED_64 = ((FIXED32, BYTES), True), ((FIXED64, BYTES), True)
FIELDS: dict[str, dict[int, tuple[tuple[int, ...], bool]]] = {
    # ir_version, producer_name, graph, opset_import, metadata_props, training_info, functions
    "ModelProto": {1: ONE_VARINT, 2: ONE, 7: ONE, 8: MANY, 14: MANY, 20: MANY, 25: MANY},
    "OperatorSetIdProto": {1: ONE, 2: ONE_VARINT},  # domain, version
    "StringStringEntryProto": {1: ONE, 2: ONE},  # key, value
    "TrainingInfoProto": {1: ONE, 2: ONE},  # initialization, algorithm
    "FunctionProto": {7: MANY, 11: MANY, 12: MANY},  # node, attribute_proto, value_info
    # node, initializer, input, output, value_info, sparse_initializer
    "GraphProto": {1: MANY, 5: MANY, 11: MANY, 12: MANY, 13: MANY, 15: MANY},
    "NodeProto": {1: MANY, 2: MANY, 3: ONE, 4: ONE, 5: MANY, 7: ONE},  # input, output, name, op_type, attribute, domain
    # name, t, g, tensors, graphs, tp, type_protos, sparse_tensor, sparse_tensors
    "AttributeProto": {1: ONE, 5: ONE, 6: ONE, 10: MANY, 11: MANY, 14: ONE, 15: MANY, 22: ONE, 23: MANY},
    "TensorProto": {
        1: PACKED_VARINTS,  # dims
        2: ONE_VARINT,  # data_type
        4: PACKED_32,  # float_data
        5: PACKED_VARINTS,  # int32_data
        6: MANY,  # string_data
        7: PACKED_VARINTS,  # int64_data
        8: ONE,  # name
        9: ONE,  # raw_data
        10: PACKED_64,  # double_data
        11: PACKED_VARINTS,  # uint64_data
        13: MANY,  # external_data
        14: ONE_VARINT,  # data_location
    },
    "SparseTensorProto": {1: ONE, 2: ONE, 3: PACKED_VARINTS},  # values, indices, dims
    "ValueInfoProto": {1: ONE, 2: ONE},  # name, type
    # tensor_type, sequence_type, map_type, opaque_type, sparse_tensor_type, optional_type
    "TypeProto": {1: ONE, 4: ONE, 5: ONE, 7: ONE, 8: ONE, 9: ONE},
    "TypeProto.Tensor": {1: ONE_VARINT, 2: ONE},  # elem_type, shape; SparseTensor is alike
    "TypeProto.Sequence": {1: ONE},  # elem_type; Optional is alike
    "TypeProto.Map": {2: ONE},  # value_type
    "TensorShapeProto": {1: MANY},  # dim
    "TensorShapeProto.Dimension": {1: ONE_VARINT, 2: ONE},  # dim_value, dim_param
}


def read_span(value: int | Span) -> Span:
    assert isinstance(value, tuple)  # `FIELDS` has seen to it
    return value


def read_number(value: int | Span) -> int:
    assert isinstance(value, int)  # `FIELDS` has seen to it
    return value


def read_signed(value: int, bits: int) -> int:
    """A varint as protobuf's int64, int32 or enum: cut to its width, in two's complement."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value
