"""What is read of ONNX's messages: their field numbers and element types, from `onnx/onnx.proto3` of ONNX 1.23."""

from __future__ import annotations

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
# TensorProto's data fields: how many bytes or values an element of each type takes there.
_INT32_DATA = (2, 3, 4, 5, 6, 9, 10, 16, 17, 18, 19, 20, 24)
TYPES_OF_DATA_FIELD = {4: (1, 14), 5: _INT32_DATA, 6: (STRING,), 7: (INT64,), 10: (11, 15), 11: (12, 13)}
SUB_BYTE_TYPES = tuple(kind for kind, (_, bits) in ELEMENT_TYPES.items() if bits < 8)
