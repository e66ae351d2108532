"""A network of Caffe as a graph: each layer with the values that it reads, whatever blobs are written in place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssd_edge.errors import ModelFileError

ALIASES = ("Dropout", "Split")  # give what they read
INPUTS = ("Input", "Data", "ImageData", "AnnotatedData", "VideoData", "MemoryData", "DummyData")
DETECTIONS = "DetectionOutput"
IMAGE_AXES = 4  # number, channels, rows, columns
MAX_SIDE = 8192  # pixels, as a model card has it
TRAIN = 0  # of enum Phase


@dataclass(frozen=True)
class Node:
    """A layer.

    Attributes:
        name: the layer's, and that of the value it makes.
        type: as the prototxt has it.
        inputs: names of the layers whose values it reads.
        layer: its LayerParameter.
        scale: the Scale layer behind a BatchNorm that alone reads its value; both are one node.
    """

    name: str
    type: str
    inputs: tuple[str, ...]
    layer: Any
    scale: Any = None


@dataclass(frozen=True)
class CaffeGraph:
    """What the DetectionOutput of a network is made of.

    Attributes:
        name: the network's, as the prototxt has it; perhaps empty.
        nodes: by name, in the order in which they run; DetectionOutput is the last.
        image: the name of the value that is the image.
        size_hw: the image's rows and columns.
        path: the prototxt, for messages.
    """

    name: str
    nodes: dict[str, Node]
    image: str
    size_hw: tuple[int, int]
    path: Path

    @property
    def detections(self) -> Node:
        return next(reversed(self.nodes.values()))

    def readers(self, value: str) -> list[Node]:
        """The nodes that read a value."""
        return [node for node in self.nodes.values() if value in node.inputs]

    def back_from(self, value: str) -> Iterator[Node]:
        """The node that makes a value, the one that makes what that reads, and so on, while each reads one value."""
        while value in self.nodes:
            node = self.nodes[value]
            yield node
            if len(node.inputs) != 1:
                return
            value = node.inputs[0]


def graph_of(net: Any, path: Path) -> CaffeGraph:
    """The graph of a NetParameter, as far as it makes detections.

    Raises:
        ModelFileError: no DetectionOutput, a layer that reads what no earlier one makes, two layers of a name, or an
            input that is no image of three channels.
    """
    layers = [layer for layer in net.layer if _is_for_tests(layer)]
    shapes = _input_shapes(net, layers)
    names = Counter([*shapes, *(layer.name for layer in layers if layer.type not in INPUTS)])
    if repeated := [name for name, times in names.items() if times > 1]:
        raise ModelFileError(f"{path}: two layers have the name {repeated[0]!r}; give each its own")
    nodes = _nodes(layers, set(shapes), path)
    ends = [node for node in nodes.values() if node.type == DETECTIONS]
    if len(ends) != 1:
        kinds = ", ".join(sorted({layer.type for layer in layers}))
        raise ModelFileError(
            f"{path} has {len(ends) or 'no'} DetectionOutput layer{'s' if len(ends) > 1 else ''}; expected the "
            f"deploy.prototxt of an SSD, which ends in one (train.prototxt does not). Its layers: {kinds:.300}"
        )
    needed = _needed(nodes, ends[0])
    inputs = {value for node in needed.values() for value in node.inputs} - set(needed)
    if len(inputs) != 1:
        raise ModelFileError(
            f"{path}: the detections are made of the inputs {', '.join(sorted(inputs)) or 'none'}; expected one image"
        )
    image = inputs.pop()
    return CaffeGraph(net.name, _with_scales(needed), image, _size_hw(shapes[image], path), path)


def _is_for_tests(layer: Any) -> bool:
    """Whether a layer takes part outside training."""
    if any(rule.HasField("phase") and rule.phase != TRAIN for rule in layer.exclude):
        return False
    phases = [rule.phase for rule in layer.include if rule.HasField("phase")]
    return not phases or any(phase != TRAIN for phase in phases)


def _input_shapes(net: Any, layers: Sequence[Any]) -> dict[str, tuple[int, ...]]:
    """Shape of each input blob; empty where the file does not say it."""
    dims = [tuple(shape.dim) for shape in net.input_shape]
    if not dims:
        dims = [tuple(net.input_dim[k : k + IMAGE_AXES]) for k in range(0, len(net.input_dim), IMAGE_AXES)]
    shapes = dict(zip(net.input, [*dims, *[()] * len(net.input)], strict=False))
    for layer in layers:
        if layer.type in INPUTS:
            given = [tuple(shape.dim) for shape in layer.input_param.shape]
            shapes.update(zip(layer.top, [*given, *(given or [()]) * len(layer.top)], strict=False))
    return shapes


def _nodes(layers: Sequence[Any], inputs: set[str], path: Path) -> dict[str, Node]:
    """All layers; a blob that is written in place becomes another value."""
    value_of = {blob: blob for blob in inputs}  # the latest value of each blob
    nodes: dict[str, Node] = {}
    for layer in layers:
        if layer.type in INPUTS:
            continue
        if missing := [blob for blob in layer.bottom if blob not in value_of]:
            raise ModelFileError(
                f"{path}: layer {layer.name!r} reads {missing[0]!r}, which no earlier layer makes; the file is not "
                "whole, or not a deploy.prototxt"
            )
        read = tuple(value_of[blob] for blob in layer.bottom)
        if layer.type in ALIASES and read:
            value_of.update(dict.fromkeys(layer.top, read[0]))
            continue
        nodes[layer.name] = Node(layer.name, layer.type, read, layer)
        value_of.update(dict.fromkeys(layer.top, layer.name))
    return nodes


def _needed(nodes: dict[str, Node], end: Node) -> dict[str, Node]:
    """The nodes that the last one is made of, in the order in which they run."""
    found, names = {end.name}, [*end.inputs]
    while names:
        name = names.pop()
        if name in nodes and name not in found:
            found.add(name)
            names += nodes[name].inputs
    return {name: node for name, node in nodes.items() if name in found}


def _with_scales(nodes: dict[str, Node]) -> dict[str, Node]:
    """BatchNorm nodes take the Scale behind them in."""
    readers: dict[str, list[Node]] = {}
    for node in nodes.values():
        for value in node.inputs:
            readers.setdefault(value, []).append(node)
    renamed: dict[str, str] = {}
    merged: dict[str, Node] = {}
    for node in nodes.values():
        if node.name in renamed:
            continue
        inputs = tuple(renamed.get(value, value) for value in node.inputs)
        behind = readers.get(node.name, [])
        scale = None
        if node.type == "BatchNorm" and [reader.type for reader in behind] == ["Scale"] and len(behind[0].inputs) == 1:
            renamed[behind[0].name] = node.name
            scale = behind[0].layer
        merged[node.name] = Node(node.name, node.type, inputs, node.layer, scale)
    return merged


def _size_hw(shape: Sequence[int], path: Path) -> tuple[int, int]:
    if len(shape) != IMAGE_AXES or shape[1] != 3:
        raise ModelFileError(
            f"{path}: the input has the shape {list(shape)!s:.100}; expected [1, 3, rows, columns], as input_shape or "
            "the input_param of an Input layer says it"
        )
    rows, columns = int(shape[2]), int(shape[3])
    if not (1 <= rows <= MAX_SIDE and 1 <= columns <= MAX_SIDE):
        raise ModelFileError(f"{path}: images of {columns}×{rows} pixels; expected up to {MAX_SIDE} a side")
    return rows, columns
