"""A foreign graph in the form that the rest of ssd-edge knows: opset 18, folded constants, one batch.

ONNX Runtime's basic optimisations do the folding: constants, batch norms into convolutions, chains that compute shapes.
They keep to ONNX's own operators and compute the same.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
import onnxruntime as ort
from onnx import version_converter

from ssd_edge.errors import ModelFileError, reason
from ssd_edge.export.adopt.foreign import CONTROL_FLOW, ForeignInput
from ssd_edge.onnx_graph import IR_VERSION, OPSET, own_opset, topologically_sorted, without_notes
from ssd_edge.runtime.backends.ort_session import open_session


def simplified(model: onnx.ModelProto, taken: ForeignInput, path: Path, *, fixed: bool) -> onnx.ModelProto:
    """The same network in opset 18 or later, its constants folded.

    Args:
        model: in float32.
        path: for messages.
        fixed: with the batch that the file has, or 1 where it leaves it open, so that no shape has to be computed.

    Raises:
        ModelFileError: it breaks ONNX's rules, or cannot be converted.
    """
    model = _in_our_opset(model, path)
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [info for info in graph.input if info.name not in constants]
    del graph.input[:], graph.value_info[:]
    graph.input.extend(inputs)
    for size, dim in zip(taken.shape, graph.input[0].type.tensor_type.shape.dim, strict=True):
        dim.dim_value = size
    if not fixed:
        graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    for info in graph.output:
        info.type.tensor_type.ClearField("shape")
    folded = _folded(model, path)
    for node in folded.graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type in ("If", *CONTROL_FLOW):
            raise ModelFileError(f"{path}: {node.op_type} {node.name!r:.100} is control flow; export it again without")
    return folded


def _in_our_opset(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    try:
        onnx.checker.check_model(model)
        if own_opset(model) < OPSET:
            model = version_converter.convert_version(model, OPSET)
    except Exception as error:  # the converter's errors share no base but Exception
        raise ModelFileError(
            f"{path} cannot be brought to opset {OPSET} ({reason(error)}); export it again with opset_version={OPSET}"
        ) from error
    model.ir_version = max(IR_VERSION, onnx.helper.find_min_ir_version_for(model.opset_import))
    return model


def _folded(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "folded.onnx"
        try:
            open_session(model.SerializeToString(), folded=output)
        except Exception as error:  # ONNX Runtime's errors share no base but Exception
            raise ModelFileError(
                f"{path}: ONNX Runtime {ort.__version__} cannot load it in opset {own_opset(model)}: {reason(error)}"
            ) from error
        folded = onnx.load(output)
    opset = own_opset(folded)
    del folded.opset_import[:]
    folded.opset_import.add(domain="", version=opset)
    folded.ir_version = model.ir_version
    del folded.metadata_props[:]
    _reorder(folded, model)
    return without_notes(folded)


def _reorder(folded: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Bring the nodes back into the file's order, as far as they are still there."""
    places = {name: place for place, node in enumerate(model.graph.node) for name in node.output}
    last = len(places)
    nodes = sorted(folded.graph.node, key=lambda node: max(places.get(name, last) for name in node.output))
    nodes = topologically_sorted(nodes)
    del folded.graph.node[:]
    folded.graph.node.extend(nodes)
