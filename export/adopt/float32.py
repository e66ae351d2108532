"""Half precision taken out of a graph: our fp32 files are float32; `export --precision fp16` makes halves again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def has_halves(model: onnx.ModelProto) -> bool:
    """Whether a tensor of a graph is float16 or bfloat16."""
    graph = model.graph
    infos = (*graph.input, *graph.output, *graph.value_info)
    return (
        any(info.type.tensor_type.elem_type in HALVES for info in infos)
        or any(tensor.data_type in HALVES for tensor in graph.initializer)
        or any(_is_half(attribute) for attribute in _attributes(graph))
    )


def widen(model: onnx.ModelProto) -> None:
    """Make every half tensor of a graph float32, in place: constants, inputs, outputs and the results of Cast."""
    graph = model.graph
    for info in (*graph.input, *graph.output):
        if info.type.tensor_type.elem_type in HALVES:
            info.type.tensor_type.elem_type = TensorProto.FLOAT
    del graph.value_info[:]
    for tensor in graph.initializer:
        if tensor.data_type in HALVES:
            tensor.CopyFrom(_widened(tensor))
    for attribute in _attributes(graph):
        if _is_half(attribute):
            if attribute.type == onnx.AttributeProto.TENSOR:
                attribute.t.CopyFrom(_widened(attribute.t))
            else:
                attribute.i = TensorProto.FLOAT


def _attributes(graph: onnx.GraphProto) -> Iterator[onnx.AttributeProto]:
    for node in graph.node:
        for attribute in node.attribute:
            yield attribute
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _attributes(attribute.g)


def _is_half(attribute: onnx.AttributeProto) -> bool:
    if attribute.type == onnx.AttributeProto.TENSOR:
        return attribute.t.data_type in HALVES
    return attribute.name in ("to", "dtype") and attribute.i in HALVES


def _widened(tensor: onnx.TensorProto) -> onnx.TensorProto:
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
