"""Logits and offsets of an ONNX file, whose contract has boxes and scores only. Needs the `export` extra.

The tensors are found in the graph and become further outputs of a copy of it in memory; the file stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from ssd_edge.onnx_graph import GraphIndex, metadata_of, topologically_sorted
from ssd_edge.parity.taps import RawTensors, Tap
from ssd_edge.runtime.backends.base import Detector
from ssd_edge.runtime.backends.ort_session import open_session

# They tell of a tensor's shape, not of its values, so nothing is decoded through them.
SHAPE_OPS = frozenset({"Shape", "Size"})


def tap_onnx(path: Path, detector: Detector, *, threads: int | None = None) -> Tap:
    """Run `path` with its logits and offsets as further outputs; `detector` has opened, and so checked, the file.

    The detector is closed when the copy with more outputs has taken its place. Where the copy gives other boxes or
    scores than the file itself on an image of noise (an output in the middle may keep the runtime from merging
    operations), a note says by how much.
    """
    model = onnx.load(path)
    size_hw = (detector.card.height, detector.card.width)
    noise = np.random.default_rng(0).integers(0, 256, (1, *size_hw, 3), np.uint8)
    boxes, scores = detector.infer(noise)
    wanted = {"logits": logits_name(model.graph), "offsets": offsets_name(model.graph)}
    names = {kind: name for kind, name in wanted.items() if name is not None}
    _add_outputs(model.graph, names.values())
    session = open_session(model.SerializeToString(), threads=threads, metadata=metadata_of(model))
    copy_boxes, copy_scores, *values = session.run(["boxes", "scores", *names.values()], {"images": noise})
    expected = {"logits": (*scores.shape[:2], scores.shape[2] + 1), "offsets": boxes.shape}
    fitting = {kind: names[kind] for kind, value in zip(names, values, strict=True) if value.shape == expected[kind]}
    notes = [f"{path}: its graph has no {kind} that can be told, so they are not available" for kind in wanted]
    notes = [note for kind, note in zip(wanted, notes, strict=True) if kind not in fitting]
    if not (_same(boxes, copy_boxes) and _same(scores, copy_scores)):
        apart = max(float(np.abs(copy_boxes - boxes).max()), float(np.abs(copy_scores - scores).max()))
        notes.append(
            f"{path}: with logits and offsets as outputs, boxes and scores come out differently by up to {apart:.1e}; "
            "its stages are those of that copy"
        )
    detector.close()
    sessions = [session]

    def run(images_rgb: NDArray[np.uint8]) -> RawTensors:
        outputs = sessions[0].run(["boxes", "scores", *fitting.values()], {"images": images_rgb})
        heads = dict(zip(fitting, (value.astype(np.float32) for value in outputs[2:]), strict=True))
        return RawTensors(outputs[0], outputs[1], heads.get("logits"), heads.get("offsets"))

    return Tap(run, sessions.clear, tuple(notes))


def _same(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    return np.array_equal(a, b, equal_nan=True)


def logits_name(graph: onnx.GraphProto) -> str | None:
    """The tensor that the softmax of `scores` takes; None where there is no softmax."""
    for node, _ in _walk_back(graph, "scores"):
        if node.op_type == "Softmax":
            return str(node.input[0])
    return None


def offsets_name(graph: onnx.GraphProto) -> str | None:
    """The tensor that `boxes` are decoded from; None where it cannot be told.

    It is the nearest one that all of `boxes` is computed from with an exponential, that of width and height, in
    between. Where it comes out of a Cast or DequantizeLinear, that is float already.
    """
    index, exponential = GraphIndex(graph), False
    for node, waiting in _walk_back(graph, "boxes"):
        exponential |= node.op_type == "Exp"
        if exponential and len(waiting) == 1:
            (name,) = waiting
            if not index.made_by(name, "QuantizeLinear"):
                return name
    return None


def _walk_back(graph: onnx.GraphProto, output: str) -> Iterator[tuple[onnx.NodeProto, frozenset[str]]]:
    """The nodes that an output is computed from, last first, each with the tensors that are then still to be made.

    Constants, and what depends on the images' shape only, are not among the tensors.
    """
    nodes = topologically_sorted(graph.node)  # ONNX demands that order, but ONNX Runtime runs any
    computed = _computed_from(nodes, "images")
    waiting = {output}
    for node in reversed(nodes):
        if waiting.isdisjoint(node.output):
            continue
        waiting.difference_update(node.output)
        waiting.update(name for name in node.input if name in computed)
        yield node, frozenset(waiting)


def _computed_from(nodes: Sequence[onnx.NodeProto], source: str) -> set[str]:
    computed = {source}
    for node in nodes:
        if node.op_type not in SHAPE_OPS and not computed.isdisjoint(node.input):
            computed.update(node.output)
    return computed


def _add_outputs(graph: onnx.GraphProto, names: Iterable[str]) -> None:
    present = {output.name for output in graph.output}
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
