"""A planned graph rewritten with half tensors."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ssd_edge.export.fp16.plan import DEQUANTISE, FLOAT, HALF, QUANTISE, TYPE_FREE, Plan, loss

HALF_TINY = 2.0**-24  # the smallest that is not 0
QUANTISATION_OPSET = 19  # the first whose QuantizeLinear and DequantizeLinear take half


class Rewriter:
    """Writes the half graph node by node.

    `names` holds each tensor by name and type, `written` those of them that are there already.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.graph = plan.model.graph
        self.nodes, self.constants, self.outputs = plan.index.nodes, plan.index.constants, plan.index.outputs
        self.dequantisers = {node.output[0]: node for node in plan.index.of(DEQUANTISE)}
        self.scales = {node.input[1] for node in self.nodes if node.op_type in (QUANTISE, DEQUANTISE)}
        self.taken = {name for node in self.nodes for name in (node.name, *node.input, *node.output)}
        self.natural = self._natural_types()
        self.names = {
            (name, kind): self._fresh(name, kind) if name in self.outputs and kind == HALF else name
            for name, kind in self.natural.items()
        }
        self.written = {key for key in self.names if key[0] not in self.dequantisers}
        self.half_nodes: list[onnx.NodeProto] = []
        self.half_constants: list[onnx.TensorProto] = []

    def model(self) -> onnx.ModelProto:
        for node in self.nodes:
            if node.op_type == DEQUANTISE and self.plan.types[node.output[0]] == FLOAT:
                continue  # written where it is asked for, in the type that is asked for
            self._write(node)
        for info in self.graph.output:
            if self.natural.get(info.name, FLOAT) == HALF or info.name in self.dequantisers:
                self._as(info.name, FLOAT)
        return self._assembled()

    def _natural_types(self) -> dict[str, int]:
        """The type in which each float tensor is made; that of a dequantised one is for its takers to say."""
        asked_half = {name for node in self.nodes if self.plan.is_half(node) for name in node.input}
        natural = {name: FLOAT for name, kind in self.plan.types.items() if kind == FLOAT}
        for node in self.nodes:
            half = (
                node.output[0] in asked_half - self.outputs if node.op_type == DEQUANTISE else self.plan.is_half(node)
            )
            natural |= {name: HALF for name in node.output if half and natural.get(name) == FLOAT}
        return natural

    def _fresh(self, name: str, kind: int) -> str:
        fresh = f"{name}_{'half' if kind == HALF else 'float'}"
        while fresh in self.taken:
            fresh += "_"
        self.taken.add(fresh)
        return fresh

    def _write(self, node: onnx.NodeProto) -> None:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        kind = HALF if self.plan.is_half(node) else FLOAT
        if node.op_type == QUANTISE:
            kind = self._quantised_type(node)
        for place, name in enumerate(node.input):
            copy.input[place] = self._as(name, self.natural.get(name, 0) if node.op_type in TYPE_FREE else kind)
        for place, name in enumerate(node.output):
            copy.output[place] = self.names.get((name, kind), name)
        self.half_nodes.append(copy)

    def _quantised_type(self, node: onnx.NodeProto) -> int:
        """That of the data, unless half has no such scale."""
        scale = self.constants.get(node.input[1])
        kind = self.natural[node.input[0]]
        return FLOAT if scale is not None and loss(numpy_helper.to_array(scale)) else kind

    def _as(self, name: str, kind: int) -> str:
        """The name under which a float tensor is there in a type; what is no float tensor keeps its name."""
        if name not in self.natural:
            return name
        key = name, kind
        if key not in self.names:
            self.names[key] = name if name in self.outputs and kind == FLOAT else self._fresh(name, kind)
        if key not in self.written:
            self.written.add(key)
            self._convert(name, kind, self.names[key])
        return self.names[key]

    def _convert(self, name: str, kind: int, new: str) -> None:
        """Write a tensor in a type that it is not made in."""
        if name in self.dequantisers:
            copy = onnx.NodeProto()
            copy.CopyFrom(self.dequantisers[name])
            if new != name and copy.name:
                copy.name = f"{copy.name}_{'half' if kind == HALF else 'float'}"
            copy.input[1] = self._as(copy.input[1], kind)
            copy.output[0] = new
            self.half_nodes.append(copy)
        elif name in self.constants:
            values = numpy_helper.to_array(self.constants[name])
            halves = values.astype(np.float16)
            if name in self.scales:  # of a channel without weights, say; TensorRT takes positive ones only
                halves = np.where(values > 0, np.maximum(halves, np.float16(HALF_TINY)), halves)
            self.half_constants.append(numpy_helper.from_array(halves, new))
        else:
            made = self.names[name, self.natural[name]]
            self.half_nodes.append(helper.make_node("Cast", [made], [new], name=f"cast_{new}", to=kind))

    def _assembled(self) -> onnx.ModelProto:
        model = onnx.ModelProto()
        model.CopyFrom(self.plan.model)
        graph = model.graph
        infos = {info.name: info for info in (*self.graph.value_info, *self.graph.output)}
        original = [info for info in self.graph.value_info if info.name not in self.natural]
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(self.half_nodes)
        used = {name for node in self.half_nodes for name in node.input}
        graph.initializer.extend(t for t in (*self.constants.values(), *self.half_constants) if t.name in used)
        graph.value_info.extend(original)
        for (name, kind), new in self.names.items():
            if name in infos and new not in self.outputs:
                info = graph.value_info.add()
                info.CopyFrom(infos[name])
                info.name = new
                info.type.tensor_type.elem_type = kind
        self._raise_opset(model)
        return model

    def _raise_opset(self, model: onnx.ModelProto) -> None:
        halves = {new for (_, kind), new in self.names.items() if kind == HALF}
        in_half = any(n.op_type in (QUANTISE, DEQUANTISE) and halves & set(n.input) for n in self.half_nodes)
        for entry in model.opset_import:
            if entry.domain in ("", "ai.onnx") and in_half:
                entry.version = max(entry.version, QUANTISATION_OPSET)
