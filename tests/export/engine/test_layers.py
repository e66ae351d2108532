"""Shares of precision, from JSON as the inspectors of TensorRT 10 and 11 write it."""

import json

import pytest

from ssd_edge.errors import GateFailedError
from ssd_edge.export.engine.layers import check_dla, check_precision, dla_layers, layer_precision, layer_shares
from ssd_edge.runtime.tensorrt.engine_card import LayerShare

# TensorRT 10: one field for format and type.
TEN = """{"Layers": [
{"Name": "cast", "LayerType": "kgen",
 "Inputs": [{"Name": "images", "Location": "Device", "Dimensions": [1,300,300,3], "Format/Datatype": "UInt8"}],
 "Outputs": [{"Name": "x", "Location": "Device", "Dimensions": [1,3,300,300], "Format/Datatype": "Float"}],
 "TacticName": "__myl_Cast", "StreamId": 0, "Metadata": ""},
{"Name": "Reformatting CopyNode for Input Tensor 0 to conv1", "LayerType": "Reformat",
 "Inputs": [{"Name": "x", "Format/Datatype": "Row major linear FP32"}],
 "Outputs": [{"Name": "y", "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}],
 "ParameterType": "Reformat", "Origin": "REFORMAT"},
{"Name": "conv1", "LayerType": "CaskConvolution",
 "Inputs": [{"Name": "y", "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}],
 "Outputs": [{"Name": "z", "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}],
 "ParameterType": "Convolution", "Kernel": [3,3], "OutMaps": 64,
 "Weights": {"Type": "Int8", "Count": 1728}, "Bias": {"Type": "Float", "Count": 64}, "TacticName": "sm80_xmma_i8i8"},
{"Name": "conv2", "LayerType": "CaskConvolution",
 "Inputs": [{"Name": "z", "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}],
 "Outputs": [{"Name": "w", "Format/Datatype": "Row major linear FP32"}],
 "Weights": {"Type": "Half", "Count": 36864}}
], "Bindings": ["images", "boxes", "scores"]}"""

# TensorRT 11: type and format apart, and the inputs and outputs of the whole as objects.
ELEVEN = """{"Layers": [
{"Name": "conv1", "LayerType": "gemm",
 "Inputs": [{"Name": "y", "DataType": "Int8", "Format": "Row major linear FP32 format (kLINEAR)"}],
 "Outputs": [{"Name": "z", "DataType": "Float", "Format": "Row major linear FP32 format (kLINEAR)"}]},
{"Name": "softmax", "LayerType": "kgen",
 "Inputs": [{"Name": "z", "DataType": "Float", "Format": "Row major linear FP32 format (kLINEAR)"}],
 "Outputs": [{"Name": "scores", "DataType": "Float", "Format": "Row major linear FP32 format (kLINEAR)"}]}
], "I/O Tensors": [{"Name": "images", "IOMode": "Input", "DataType": "UInt8", "Dimensions": [1,300,300,3]}]}"""


def test_shares_of_layers_and_of_time_in_10() -> None:
    times = {"cast": 1.0, "Reformatting CopyNode for Input Tensor 0 to conv1": 1.0, "conv1": 6.0, "conv2": 2.0}
    assert layer_shares(TEN, times) == {
        "other": LayerShare(1, 0.25, 0.1),
        "reformat": LayerShare(1, 0.25, 0.1),
        "int8": LayerShare(1, 0.25, 0.6),
        "fp16": LayerShare(1, 0.25, 0.2),
    }


def test_shares_in_11_and_without_times() -> None:
    assert layer_shares(ELEVEN, {}) == {"int8": LayerShare(1, 0.5, None), "fp32": LayerShare(1, 0.5, None)}


def test_the_most_layers_come_first() -> None:
    layers = json.loads(TEN)["Layers"]
    shares = layer_shares(json.dumps({"Layers": [layers[3], layers[2], layers[2]]}), {"conv1": 3.0, "conv2": 2.0})
    assert shares is not None
    assert list(shares) == ["int8", "fp16"]
    assert shares["int8"].time_share == pytest.approx(0.75)  # a name's time counts for each layer that has it


@pytest.mark.parametrize("text", ["", "no JSON", "[]", '{"Layers": []}', '{"Layers": ["conv1", "conv2"]}', "{}"])
def test_an_inspector_that_tells_nothing(text: str) -> None:
    assert layer_shares(text, {}) is None


@pytest.mark.parametrize(
    ("kind", "precision"),
    [
        ("Int8", "int8"),
        ("UInt8", "other"),
        ("Half", "fp16"),
        ("Float", "fp32"),
        ("Float16", "fp16"),
        ("BFloat16", "bf16"),
        ("Row major linear BF16", "bf16"),
        ("FP8", "fp8"),
        ("Row major Int4 format", "int4"),
        ("Int32", "other"),
        ("Int64", "other"),
        ("Bool", "other"),
        ("Two wide channel vectorized row major FP16 format", "fp16"),
        ("Row major INT8 format", "int8"),
        ("N/A due to dynamic shapes", "unknown"),
        ("", "unknown"),
    ],
)
def test_names_of_types(kind: str, precision: str) -> None:
    assert layer_precision({"Inputs": [{"Format/Datatype": kind}]}) == precision
    assert layer_precision({"Inputs": [{"DataType": kind}]}) == precision


def test_a_layer_runs_in_the_narrowest_type_that_it_reads() -> None:
    half, integer, float32 = ({"DataType": kind} for kind in ("Half", "Int8", "Float"))
    assert layer_precision({"Inputs": [float32, half], "Outputs": [integer]}) == "fp16"
    assert layer_precision({"Inputs": [half], "Weights": {"Type": "Int8", "Count": 9}}) == "int8"
    assert layer_precision({"Inputs": [half], "Weights": {"Type": "Int8", "Count": 0}}) == "fp16"
    assert layer_precision({"Inputs": [], "Outputs": [half]}) == "fp16"
    assert layer_precision({"LayerType": "Reformat", "Inputs": [integer]}) == "reformat"
    assert layer_precision({}) == "unknown"


def test_an_engine_that_is_not_what_it_is_called() -> None:
    shares = layer_shares(TEN, {})
    assert shares is not None
    check_precision(shares, "int8", source="m.engine")
    check_precision(shares, "fp16", source="m.engine")
    del shares["int8"]
    with pytest.raises(GateFailedError, match=r"m\.engine is not written: .*int8.*layers: 1 other, 1 reformat, 1 fp16"):
        check_precision(shares, "int8", source="m.engine")
    check_precision({"bf16": LayerShare(1, 1, None)}, "fp16", source="m.engine")
    only_reformat = {"reformat": LayerShare(1, 1, None)}
    check_precision(only_reformat, "fp32", source="m.engine")
    with pytest.raises(GateFailedError):
        check_precision(only_reformat, "fp16", source="m.engine")


def information_of(*layers: dict[str, str] | str) -> str:
    return json.dumps({"Layers": list(layers)})


GPU_LAYER = {"Name": "{ForeignNode[conv1...relu1]}", "LayerType": "Myelin"}
DLA_LAYER = {"Name": "{ForeignNode[conv1...relu9]}", "LayerType": "DLA"}


def test_layers_on_the_dla() -> None:
    assert dla_layers(information_of(GPU_LAYER, DLA_LAYER, DLA_LAYER)) == 2
    names = ("images to nvm", "{ForeignNode[conv1...relu9]}", "boxes from nvm", "boxes copy finish")
    assert dla_layers(information_of(*names)) == 2  # where details were not kept
    check_dla(information_of(DLA_LAYER), source="m.engine")


@pytest.mark.parametrize(
    "information",
    [
        information_of(GPU_LAYER, {"Name": "adla", "LayerType": "CaskConvolution"}),
        information_of("{ForeignNode[conv1...relu1]}"),
        information_of(),
        "",
        "[]",
    ],
)
def test_an_engine_that_does_not_use_the_dla(information: str) -> None:
    with pytest.raises(GateFailedError, match=r"m\.engine is not written: .*no layer there.*leave --dla out"):
        check_dla(information, source="m.engine")
