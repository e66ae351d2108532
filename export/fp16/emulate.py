"""What a half graph computes, in float: for ONNX Runtime, whose CPU kernels lack half."""

from __future__ import annotations

import onnx
from onnx import helper

from ssd_edge.export.fp16.plan import FLOAT, HALF, TYPE_FREE, known_types


def emulated_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """A half graph as a GPU runs it: each node computes in float32 and rounds what it gives to half.

    ONNX Runtime on the CPU has no half arithmetic and leaves the rounding between such nodes out, so the file itself,
    run there, is nearer to float32 than on a device. Tensor cores sum in float32 too.
    """
    types = known_types(model)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        rounded = []
        if node.op_type not in (*TYPE_FREE, "Cast"):
            for place, name in enumerate(node.input):
                if types.get(name) == HALF:
                    copy.input[place] = f"{node.output[0]}_input{place}"
                    nodes.append(helper.make_node("Cast", [name], [copy.input[place]], to=FLOAT))
            for place, name in enumerate(node.output):
                if types.get(name) == HALF:
                    copy.output[place] = f"{name}_unrounded"
                    rounded.append(helper.make_node("Cast", [copy.output[place]], [name], to=HALF))
        nodes += [copy, *rounded]
    emulated = onnx.ModelProto()
    emulated.CopyFrom(model)
    del emulated.graph.node[:], emulated.graph.value_info[:]
    emulated.graph.node.extend(nodes)
    return emulated
