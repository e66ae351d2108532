"""What no ONNX file says of an SSD: how images are prepared, and what the classes are called."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from ssd_edge.card import SIGMOID
from ssd_edge.errors import UsageError
from ssd_edge.export.adopt.foreign import ForeignInput
from ssd_edge.export.adopt.meaning import Meaning, Outputs
from ssd_edge.importers.family import Assumption, Facts, Normalisation
from ssd_edge.importers.labels import BACKGROUND_NAMES, made_up, without_background
from ssd_edge.onnx_graph import GraphIndex, node_attribute
from ssd_edge.runtime.onnx_file.file import OnnxFile

# RGB, 0–255: vision/ssd/config/mobilenetv1_ssd_config.py and vgg_ssd_config.py of dusty-nv/pytorch-detection.
JETSON = Normalisation((127.0, 127.0, 127.0), (128.0, 128.0, 128.0))
VGG = Normalisation((123.0, 117.0, 104.0), (1.0, 1.0, 1.0))
NONE = Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
ARITHMETIC = ("Sub", "Add", "Div", "Mul", "BatchNormalization")
MOVING = ("Cast", "Transpose", "Identity")
SURE = 0.5  # mean score of the last column that only the background has


@dataclass(frozen=True)
class Preparation:
    """How an image becomes the network's input: RGB minus mean, divided by std, blue first where `bgr`."""

    normalisation: Normalisation
    bgr: bool
    assumptions: tuple[Assumption, ...]


@dataclass(frozen=True)
class Classes:
    """What the columns of the scores are.

    Attributes:
        columns: first and one behind the last that is no background.
        names: of these.
        background: `first`, `last` or `none`.
    """

    columns: tuple[int, int]
    names: tuple[str, ...]
    background: str
    score_function: str
    assumptions: tuple[Assumption, ...]


def find_preparation(network: onnx.ModelProto, file: OnnxFile, taken: ForeignInput, facts: Facts) -> Preparation:
    """What the user says; for the rest what the network's beginning and the names of its ends suggest."""
    assumptions = []
    index = GraphIndex(network.graph)
    usual, why = JETSON, "as most SSDs of jetson-inference have it"
    if {taken.name, *(output.name for output in file.outputs)} != {"input_0", "scores", "boxes"}:
        why = "as jetson-inference has it; this file has other names"
    if taken.element_type == "uint8" or _normalises(index, taken.name):
        usual, why = NONE, "as the graph itself normalises"
    elif _is_vgg(index):
        usual, why = VGG, "as the VGG16 of jetson-inference and amdegroot/ssd.pytorch has it"
    mean, std = facts.mean or usual.mean, facts.std or usual.std
    if facts.mean is None or facts.std is None:
        said = f"mean {_numbers(mean)}, std {_numbers(std)} of RGB in 0–255"
        assumptions.append(Assumption(f"{said}, {why}", "--mean, --std"))
    if facts.bgr is None:
        assumptions.append(Assumption("the network reads RGB", "--bgr"))
    return Preparation(Normalisation(mean, std), bool(facts.bgr), tuple(assumptions))


def _numbers(values: tuple[float, ...]) -> str:
    return (
        "/".join(f"{value:g}" for value in dict.fromkeys(values))
        if len(set(values)) == 1
        else "/".join(f"{value:g}" for value in values)
    )


def _first_arithmetic(index: GraphIndex, tensor: str) -> onnx.NodeProto | None:
    """The node that first computes with the image; None where there are several."""
    node = index.only_reader(tensor)
    while node is not None and node.op_type in MOVING:
        node = index.only_reader(node.output[0])
    return node


def _normalises(index: GraphIndex, tensor: str) -> bool:
    node = _first_arithmetic(index, tensor)
    return node is not None and node.op_type in ARITHMETIC


def _is_vgg(index: GraphIndex) -> bool:
    """Whether the network begins with two convolutions of 64 channels at full resolution."""
    weights = [index.constants.get(node.input[1]) for node in index.of("Conv")[:2]]
    steps = [node_attribute(node, "strides", [1, 1]) for node in index.of("Conv")[:2]]
    shapes = [list(tensor.dims) for tensor in weights if tensor is not None]
    return shapes == [[64, 3, 3, 3], [64, 64, 3, 3]] and steps == [[1, 1], [1, 1]]


def find_classes(path: Path, meaning: Meaning, outputs: Outputs, facts: Facts) -> Classes:
    """Which columns are classes, and their names.

    Raises:
        UsageError: another number of names than of classes, or no class is left.
    """
    background, assumptions = _background(meaning, outputs, facts)
    begin, end = {"first": (1, meaning.columns), "last": (0, meaning.columns - 1), "none": (0, meaning.columns)}[
        background
    ]
    if begin >= end:
        raise UsageError(f"{path}: its scores have {meaning.columns} column, the background; give --background none")
    if facts.class_names is None:
        names = made_up(end - begin)
        assumptions.append(Assumption(f"the classes are called {names[0]} and so on", "--classes"))
    else:
        names = without_background(facts.class_names, end - begin, f"{path} has {meaning.columns} columns of scores")
    return Classes((begin, end), names, background, meaning.score_function, tuple(assumptions))


def _background(meaning: Meaning, outputs: Outputs, facts: Facts) -> tuple[str, list[Assumption]]:
    if facts.background is not None:
        return facts.background, []
    named = facts.class_names or ()
    rest = [name for name in named if name.strip().lower() not in BACKGROUND_NAMES]
    if len(rest) == len(named) == meaning.columns:
        return "none", [
            Assumption("no column of the scores is the background, as there are so many names", "--background")
        ]
    _, scores = meaning.read(outputs)
    means = np.asarray(scores.mean(axis=(0, 1)))
    if means[-1] > SURE > means[0] and meaning.score_function != SIGMOID:
        return "last", [
            Assumption("the last column of the scores, much the largest, is the background", "--background")
        ]
    return "first", [Assumption("the first column of the scores is the background", "--background")]
