"""Caffe's files by schema: `deploy.prototxt` (text) and `.caffemodel` (binary) are one protobuf message, NetParameter.

The messages are made at run time from the numbers and names of their fields, which are facts of the format (BVLC's and
weiliu89's caffe.proto agree on them). Only what an SSD needs is here; all else is an unknown field and is skipped.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from ssd_edge.errors import ModelFileError, first_line

LARGEST_TEXT = 8 << 20  # bytes of a prototxt; SSD512's has 30 kB
RAW_HALF = 2  # of `raw_data_type`
LARGEST_WEIGHTS = 1 << 30  # bytes of a caffemodel; VGG SSD512's has 110 MB

# Field number, type with `*` where it repeats, default where it is not protobuf's own; by message and field name
_MESSAGES: dict[str, dict[str, tuple[int, str] | tuple[int, str, str]]] = {
    "BlobShape": {"dim": (1, "int64*")},
    "BlobProto": {
        "shape": (7, "BlobShape"),
        "data": (5, "float*"),
        "double_data": (8, "double*"),
        "num": (1, "int32"),
        "channels": (2, "int32"),
        "height": (3, "int32"),
        "width": (4, "int32"),
        "raw_data_type": (10, "int32"),  # OpenCV's: cv2.dnn.shrinkCaffeModel writes convolutions in half
        "raw_data": (12, "bytes"),
    },
    "NetStateRule": {"phase": (1, "Phase")},
    "TransformationParameter": {"scale": (1, "float", "1"), "mean_file": (4, "string"), "mean_value": (5, "float*")},
    "BatchNormParameter": {"eps": (3, "float", "1e-5")},
    "ConcatParameter": {"axis": (2, "int32", "1"), "concat_dim": (1, "uint32", "1")},
    "ConvolutionParameter": {
        "num_output": (1, "uint32"),
        "bias_term": (2, "bool", "true"),
        "pad": (3, "uint32*"),
        "kernel_size": (4, "uint32*"),
        "stride": (6, "uint32*"),
        "dilation": (18, "uint32*"),
        "pad_h": (9, "uint32"),
        "pad_w": (10, "uint32"),
        "kernel_h": (11, "uint32"),
        "kernel_w": (12, "uint32"),
        "stride_h": (13, "uint32"),
        "stride_w": (14, "uint32"),
        "group": (5, "uint32", "1"),
        "axis": (16, "int32", "1"),
    },
    "NonMaximumSuppressionParameter": {
        "nms_threshold": (1, "float", "0.3"),
        "top_k": (2, "int32"),
        "eta": (3, "float", "1"),
    },
    "DetectionOutputParameter": {
        "num_classes": (1, "uint32"),
        "share_location": (2, "bool", "true"),
        "background_label_id": (3, "int32"),
        "nms_param": (4, "NonMaximumSuppressionParameter"),
        "code_type": (6, "CodeType", "CORNER"),
        "variance_encoded_in_target": (8, "bool"),
        "keep_top_k": (7, "int32", "-1"),
        "confidence_threshold": (9, "float"),
    },
    "EltwiseParameter": {"operation": (1, "EltwiseOp", "SUM"), "coeff": (2, "float*")},
    "FlattenParameter": {"axis": (1, "int32", "1"), "end_axis": (2, "int32", "-1")},
    "InputParameter": {"shape": (1, "BlobShape*")},
    "NormalizeParameter": {
        "across_spatial": (1, "bool", "true"),
        "channel_shared": (3, "bool", "true"),
        "eps": (4, "float", "1e-10"),
    },
    "PermuteParameter": {"order": (1, "uint32*")},
    "PoolingParameter": {
        "pool": (1, "PoolMethod", "MAX"),
        "pad": (4, "uint32"),
        "pad_h": (9, "uint32"),
        "pad_w": (10, "uint32"),
        "kernel_size": (2, "uint32"),
        "kernel_h": (5, "uint32"),
        "kernel_w": (6, "uint32"),
        "stride": (3, "uint32", "1"),
        "stride_h": (7, "uint32"),
        "stride_w": (8, "uint32"),
        "global_pooling": (12, "bool"),
    },
    "PriorBoxParameter": {
        "min_size": (1, "float*"),
        "max_size": (2, "float*"),
        "aspect_ratio": (3, "float*"),
        "flip": (4, "bool", "true"),
        "clip": (5, "bool"),
        "variance": (6, "float*"),
        "img_size": (7, "uint32"),
        "img_h": (8, "uint32"),
        "img_w": (9, "uint32"),
        "step": (10, "float"),
        "step_h": (11, "float"),
        "step_w": (12, "float"),
        "offset": (13, "float", "0.5"),
    },
    "ReLUParameter": {"negative_slope": (1, "float")},
    "ReshapeParameter": {"shape": (1, "BlobShape"), "axis": (2, "int32"), "num_axes": (3, "int32", "-1")},
    "ScaleParameter": {"axis": (1, "int32", "1"), "num_axes": (2, "int32", "1"), "bias_term": (4, "bool")},
    "SoftmaxParameter": {"axis": (2, "int32", "1")},
    "LayerParameter": {
        "name": (1, "string"),
        "type": (2, "string"),
        "bottom": (3, "string*"),
        "top": (4, "string*"),
        "blobs": (7, "BlobProto*"),
        "include": (8, "NetStateRule*"),
        "exclude": (9, "NetStateRule*"),
        "transform_param": (100, "TransformationParameter"),
        "batch_norm_param": (139, "BatchNormParameter"),
        "concat_param": (104, "ConcatParameter"),
        "convolution_param": (106, "ConvolutionParameter"),
        "detection_output_param": (204, "DetectionOutputParameter"),
        "eltwise_param": (110, "EltwiseParameter"),
        "flatten_param": (135, "FlattenParameter"),
        "input_param": (143, "InputParameter"),
        "norm_param": (206, "NormalizeParameter"),
        "permute_param": (202, "PermuteParameter"),
        "pooling_param": (121, "PoolingParameter"),
        "prior_box_param": (203, "PriorBoxParameter"),
        "relu_param": (123, "ReLUParameter"),
        "reshape_param": (133, "ReshapeParameter"),
        "scale_param": (142, "ScaleParameter"),
        "softmax_param": (125, "SoftmaxParameter"),
    },
    "V1LayerParameter": {},  # of 2013 and 2014; read only to be named
    "NetParameter": {
        "name": (1, "string"),
        "input": (3, "string*"),
        "input_shape": (8, "BlobShape*"),
        "input_dim": (4, "int32*"),
        "layer": (100, "LayerParameter*"),
        "layers": (2, "V1LayerParameter*"),
    },
}
_ENUMS = {  # first value and names; each is nested in the message given, as names repeat among them
    "Phase": ("NetStateRule", 0, ("TRAIN", "TEST")),
    "CodeType": ("PriorBoxParameter", 1, ("CORNER", "CENTER_SIZE", "CORNER_SIZE")),
    "EltwiseOp": ("EltwiseParameter", 0, ("PROD", "SUM", "MAX")),
    "PoolMethod": ("PoolingParameter", 0, ("MAX", "AVE", "STOCHASTIC")),
}
_PACKAGE = "ssd_edge.caffe"


def _net_parameter() -> type[Any]:
    """The class of NetParameter, in a pool apart, so that a caffe module that is installed does not clash."""
    types = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package=_PACKAGE, syntax="proto2")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for enum, (owner, first, values) in _ENUMS.items():
            if owner == name:
                described = message.enum_type.add(name=enum)
                for number, value in enumerate(values, first):
                    described.value.add(name=value, number=number)
        for field_name, (number, kind, *default) in fields.items():
            base = kind.removesuffix("*")
            field = message.field.add(name=field_name, number=number, label=types.LABEL_OPTIONAL)
            if base in _MESSAGES:
                field.type, field.type_name = types.TYPE_MESSAGE, f".{_PACKAGE}.{base}"
            elif base in _ENUMS:
                field.type, field.type_name = types.TYPE_ENUM, f".{_PACKAGE}.{_ENUMS[base][0]}.{base}"
            else:
                field.type = types.Type.Value(f"TYPE_{base.upper()}")
            if kind.endswith("*"):
                field.label = types.LABEL_REPEATED
                field.options.packed = name in ("BlobProto", "BlobShape")  # packed or not is read alike
            for value in default:
                field.default_value = value
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    made: type[Any] = message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.NetParameter"))
    return made


NetParameter = _net_parameter()


def read_network(path: Path) -> Any:
    """The NetParameter of a prototxt.

    Raises:
        ModelFileError: too large, no text, no prototxt, or one of Caffe's old format.
    """
    _check_size(path, LARGEST_TEXT, "a prototxt")
    net = NetParameter()
    try:
        text_format.Parse(path.read_text(encoding="utf-8"), net, allow_unknown_field=True)
    except (text_format.ParseError, UnicodeDecodeError, RecursionError) as error:
        raise ModelFileError(
            f"{path} is not a readable prototxt ({first_line(error)}); expected Caffe's deploy.prototxt"
        ) from error
    return _of_layers(net, path)


def read_weights(path: Path) -> dict[str, list[NDArray[np.float32]]]:
    """The blobs of each layer of a caffemodel, by the layer's name.

    Raises:
        ModelFileError: too large, truncated, no caffemodel, one of Caffe's old format, or a blob whose shape does not
            fit its data.
    """
    _check_size(path, LARGEST_WEIGHTS, "a caffemodel")
    net = NetParameter()
    try:
        net.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise ModelFileError(
            f"{path} is not a whole caffemodel ({first_line(error)}); it is truncated or another kind of file: "
            "fetch it again"
        ) from error
    layers = _of_layers(net, path).layer
    return {layer.name: [_array(blob, layer.name, path) for blob in layer.blobs] for layer in layers if layer.blobs}


def is_caffe_text(text: str) -> bool:
    """Whether the beginning of a text looks like a prototxt's: `layer {` and the like."""
    return re.search(r"^\s*(layers?|input_shape|input_param)\s*:?\s*\{", text, re.MULTILINE) is not None


def _check_size(path: Path, largest: int, kind: str) -> None:
    size = path.stat().st_size
    if not 0 < size <= largest:
        raise ModelFileError(f"{path} has {size} bytes; expected {kind} of 1 to {largest} bytes")


def _of_layers(net: Any, path: Path) -> Any:
    if net.layers:
        raise ModelFileError(
            f"{path} is of Caffe's old format (`layers`, before 2015); convert it with Caffe's upgrade_net_proto_text "
            "or upgrade_net_proto_binary"
        )
    if not net.layer:
        raise ModelFileError(f"{path} has no layers; expected a network of Caffe")
    return net


def _array(blob: Any, layer: str, path: Path) -> NDArray[np.float32]:
    """A blob as an array of its shape; the legacy shape has four dimensions."""
    shape = tuple(blob.shape.dim) if blob.HasField("shape") else (blob.num, blob.channels, blob.height, blob.width)
    data = blob.double_data or blob.data
    if blob.raw_data_type == RAW_HALF and len(blob.raw_data) % 2 == 0:
        data = np.frombuffer(blob.raw_data, "<f2")
    if any(size < 0 for size in shape) or math.prod(shape) != len(data):
        raise ModelFileError(
            f"{path}: a blob of layer {layer!r} has the shape {list(shape)!s:.100} but {len(data)} values; the file is "
            "damaged"
        )
    return np.array(data, np.float32).reshape(shape)
