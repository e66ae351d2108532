"""SSDs of Caffe: weiliu89's VGG SSD300 and SSD512, chuanqi305's MobileNet-SSD, OpenCV's face detector, and their kin.

A `deploy.prototxt` describes the network, a `.caffemodel` has its weights. Whatever is made of known layers is taken
over: an interpreter, not a table of networks. The reference is OpenCV 4's `dnn`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import mul
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssd_edge.box_coding import BoxCoding
from ssd_edge.errors import ModelFileError, first_line
from ssd_edge.importers.caffe_graph import CaffeGraph, graph_of
from ssd_edge.importers.caffe_head import Detections, box_coding_of, default_boxes_of, detections_of
from ssd_edge.importers.caffe_layers import (
    CONVOLUTIONS,
    Converter,
    Weights,
    affine,
    needs_weights,
    reads_all_channels,
    shortest,
)
from ssd_edge.importers.caffe_schema import is_caffe_text, read_network, read_weights
from ssd_edge.importers.family import Assumption, Facts, Family, Files, Normalisation, Settings
from ssd_edge.importers.labels import VOC_CLASSES
from ssd_edge.models.backbone_vgg import COCO
from ssd_edge.models.default_boxes import DefaultBoxConfig
from ssd_edge.models.layer_graph import DESCRIBED, LayerGraph, check_network
from ssd_edge.models.ssd import SSDConfig

TEXT_SUFFIXES, WEIGHTS_SUFFIXES = (".prototxt",), (".caffemodel",)
HEAD_BYTES = 1 << 16  # of a file, to tell a prototxt without its suffix
MOST_ANCHORS = 1 << 20  # SSD512 has 24,564
COCO_CLASSES = tuple(name for name in COCO.class_names or () if name != "N/A")

VGG = Normalisation((123.0, 117.0, 104.0), (1.0, 1.0, 1.0))
MOBILENET = Normalisation((127.5,) * 3, (1 / 0.007843,) * 3)  # chuanqi305/MobileNet-SSD, demo.py
FACE = Normalisation((123.0, 177.0, 104.0), (1.0, 1.0, 1.0))  # OpenCV's samples/dnn/face_detector: BGR 104, 177, 123


@dataclass(frozen=True)
class CaffeModel:
    """A network of Caffe in our terms.

    Attributes:
        graph: as the prototxt has it.
        network: its description, as `ssd_edge.models.layer_graph` reads it.
        tensors: by the names of our model.
        anchors: default boxes of an image.
        normalisation: what the prototxt says; None where it says nothing.
        input_scale: slope and offset of each channel, RGB, that the network itself gives the image at first; signs are
            in its weights. None where it does not, or where that is a layer of the network.
    """

    graph: CaffeGraph
    detections: Detections
    network: dict[str, Any]
    tensors: dict[str, Tensor] = field(repr=False)
    default_boxes: DefaultBoxConfig
    box_coding: BoxCoding
    anchors: int
    normalisation: Normalisation | None
    input_scale: tuple[Tensor, Tensor] | None


class Caffe(Family[CaffeModel]):
    """Single-shot detectors whose prototxt ends in DetectionOutput."""

    name = "caffe"
    about = "deploy.prototxt with its .caffemodel: VGG SSD300 and SSD512, MobileNet-SSD, OpenCV's face detector"

    def open(self, files: Files) -> CaffeModel | None:
        texts = [path for path in files.paths if _is_text(path)]
        weights = [path for path in files.paths if path not in texts]
        if not texts and not any(path.suffix in WEIGHTS_SUFFIXES for path in files.paths):
            return None
        if len(texts) != 1 or len(weights) != 1:
            raise ModelFileError(
                f"a network of Caffe comes as two files, got {', '.join(path.name for path in files.paths)}; expected "
                "its deploy.prototxt and its .caffemodel"
            )
        return caffe_model(texts[0], weights[0], files.facts)

    def recognise(self, source: CaffeModel) -> Sequence[str]:
        return [DESCRIBED]

    def rename(self, name: str, variant: str) -> str:
        return name  # `Converter` names tensors by their layers, as our model does

    def configure(self, source: CaffeModel, variant: str, facts: Facts) -> Settings:
        found = source.detections
        param = found.param
        config = SSDConfig(
            arch=DESCRIBED,
            size_hw=source.graph.size_hw,
            default_boxes=source.default_boxes,
            mean=VGG.mean,
            std=VGG.std,
            score_threshold=max(shortest(param.confidence_threshold), 0.0),
            nms_iou=shortest(param.nms_param.nms_threshold),
            candidates=_limit(param.nms_param.top_k, source.anchors),
            detections=_limit(param.keep_top_k, source.anchors),
            box_coding=source.box_coding,
            score_function=found.score_function,
            clip_before_nms=False,
            network=source.network,
        )
        names = _class_names(source.graph, found.columns - 1)
        assumed = [Assumption(f"class names: {names[1]}", "--classes")] if names else []
        return Settings(config, found.columns - 1, names[0] if names else None, tuple(assumed))

    def preprocess(
        self, source: CaffeModel, variant: str, facts: Facts
    ) -> tuple[Normalisation, tuple[Assumption, ...]]:
        normalisation, assumed = source.normalisation, list[Assumption]()
        if normalisation is None:
            normalisation, why = _usual_normalisation(source.graph)
            numbers = f"mean {_listed(normalisation.mean)} and std {_listed(normalisation.std)} of RGB"
            assumed.append(Assumption(f"{numbers}: {why}", "--mean and --std"))
        if source.input_scale is not None:
            normalisation = _scaled(normalisation, *source.input_scale)
        return normalisation, tuple(assumed)

    def tensors(self, source: CaffeModel) -> dict[str, Tensor]:
        return source.tensors


def caffe_model(prototxt: Path, caffemodel: Path, facts: Facts) -> CaffeModel:
    """Read a network of Caffe.

    Raises:
        ModelFileError: a file that is not readable, a network that is no SSD or has layers that are not known, or
            weights of another one.
    """
    net = read_network(prototxt)
    graph = graph_of(net, prototxt)
    found = detections_of(graph)
    predicting = {node.name for level in found.levels for node in (*level.classes, *level.boxes)}
    backbone = _backbone(graph, found)
    weights = Weights(read_weights(caffemodel), caffemodel)
    used = [node for node in graph.nodes.values() if node.name in predicting | backbone]
    weights.require(needs_weights(used), prototxt)
    bgr = facts.bgr is not False
    image, scale = graph.image, None
    if facts.mean is None and facts.std is None:  # else what the user says would have to hold before the network's own
        image, scale = _input_scale(graph, weights, backbone)
    signs = torch.ones(3) if scale is None else scale[0].sign().float()
    converter = Converter(graph, weights, image=image, signs=signs, bgr=bgr)
    for node in graph.nodes.values():
        if node.name in backbone and node.name != image:
            converter.add(node)
    levels, outputs = _levels(converter, found)
    network = {"layers": converter.layers, "levels": levels}
    grids = _grids(network, graph)
    default_boxes = default_boxes_of(found.levels, grids, graph)
    _check_outputs(outputs, default_boxes.boxes_per_cell, found, graph)
    cells = (rows * columns for rows, columns in grids)
    anchors = sum(map(mul, cells, default_boxes.boxes_per_cell))
    if anchors > MOST_ANCHORS:
        raise ModelFileError(f"{prototxt} makes {anchors:,} default boxes; expected up to {MOST_ANCHORS:,}")
    return CaffeModel(
        graph=graph,
        detections=found,
        network=network,
        tensors=converter.tensors,
        default_boxes=default_boxes,
        box_coding=box_coding_of(found, graph),
        anchors=anchors,
        normalisation=_transform(net, prototxt, bgr=bgr),
        input_scale=(scale[0].flip(0), scale[1].flip(0)) if scale and bgr else scale,
    )


def _is_text(path: Path) -> bool:
    if path.suffix in (*TEXT_SUFFIXES, *WEIGHTS_SUFFIXES):
        return path.suffix in TEXT_SUFFIXES
    try:
        with open(path, "rb") as file:
            return is_caffe_text(file.read(HEAD_BYTES).decode(errors="replace"))
    except OSError:
        return False  # whoever reads the file says so


def _backbone(graph: CaffeGraph, found: Detections) -> set[str]:
    """The nodes that the feature maps are made of."""
    names = [level.feature for level in found.levels]
    needed: set[str] = set()
    while names:
        name = names.pop()
        if name in graph.nodes and name not in needed:
            needed.add(name)
            names += graph.nodes[name].inputs
    return needed


def _input_scale(graph: CaffeGraph, weights: Weights, backbone: set[str]) -> tuple[str, tuple[Tensor, Tensor] | None]:
    """The value that a BatchNorm or Scale on the image itself makes, and its slope and offset of each channel.

    Convolutions pad what it makes, so that nothing else need know. They have to take its signs over.
    """
    first = [node for node in graph.readers(graph.image) if node.name in backbone]
    if [node.type for node in first] not in (["BatchNorm"], ["Scale"]):
        return graph.image, None
    slope, offset = affine(first[0], 3, weights)
    readers = [node for node in graph.readers(first[0].name) if node.name in backbone]
    if (slope > 0).all() or ((slope != 0).all() and all(map(reads_all_channels, readers))):
        return first[0].name, (slope, offset)
    return graph.image, None


def _scaled(given: Normalisation, slope: Tensor, offset: Tensor) -> Normalisation:
    """Normalisation, slope and offset in one, up to the slope's sign: a·(x − m)/s + b = (x − (m − b·s/a))/(s/a)."""
    std = torch.tensor(given.std, dtype=torch.float64) / slope
    mean = torch.tensor(given.mean, dtype=torch.float64) - offset * std
    return Normalisation(_three(mean.tolist()), _three(std.abs().tolist()))


def _levels(converter: Converter, found: Detections) -> tuple[list[dict[str, Any]], list[tuple[int, int]]]:
    """The description of each level, and the channels of its logits and offsets; the background comes first then."""
    levels, outputs = [], []
    for index, level in enumerate(found.levels):
        prefix = "head.{}_head.module_list." + str(index)
        classes, logits = converter.chain(level.feature, level.classes, prefix.format("classification"))
        boxes, offsets = converter.chain(level.feature, level.boxes, prefix.format("regression"))
        levels.append({"feature": converter.names[level.feature], "class": classes, "box": boxes})
        outputs.append((logits, offsets))
        order = [found.background, *(k for k in range(found.columns) if k != found.background)]
        last = prefix.format("classification") + (f".{len(classes) - 1}" if len(classes) > 1 else "")
        for name in (f"{last}.weight", f"{last}.bias"):
            value = converter.tensors.get(name)
            if value is not None and logits % found.columns == 0:
                by_box = value.reshape(-1, found.columns, *value.shape[1:])
                converter.tensors[name] = by_box[:, order].reshape(value.shape)
    return levels, outputs


def _check_outputs(
    outputs: Sequence[tuple[int, int]], boxes_per_cell: Sequence[int], found: Detections, graph: CaffeGraph
) -> None:
    for level, channels, boxes in zip(found.levels, outputs, boxes_per_cell, strict=True):
        expected = (boxes * found.columns, boxes * 4)
        if channels != expected:
            raise ModelFileError(
                f"{graph.path}: at {level.feature!r} the convolutions have {channels[0]} logits and {channels[1]} "
                f"offsets; {found.columns} classes with the background and {boxes} default boxes need {expected[0]} "
                f"and {expected[1]}: correct num_output, num_classes or the PriorBox"
            )


def _grids(network: dict[str, Any], graph: CaffeGraph) -> list[tuple[int, int]]:
    """Rows and columns of each feature map, by a run without numbers."""
    try:
        check_network(network)
        with torch.device("meta"):
            features = [level["feature"] for level in network["levels"]]
            maps = LayerGraph(network["layers"], features).eval()(torch.empty(1, 3, *graph.size_hw))
    except (ValueError, RuntimeError) as error:
        rows, columns = graph.size_hw
        raise ModelFileError(
            f"{graph.path}: the network does not run on images of {columns}×{rows} pixels ({first_line(error)})"
        ) from error
    return [(value.shape[2], value.shape[3]) for value in maps]


def _transform(net: Any, path: Path, *, bgr: bool) -> Normalisation | None:
    """The mean_value and scale of a transform_param; Caffe subtracts the mean before it scales."""
    params = [layer.transform_param for layer in net.layer if layer.HasField("transform_param")]
    param = next((param for param in params if param.mean_value or param.HasField("scale")), None)
    if param is None:
        return None
    mean = list(map(shortest, param.mean_value)) or [0.0]
    if len(mean) not in (1, 3) or not param.scale > 0:
        raise ModelFileError(f"{path}: a transform_param with mean_value {mean} and scale {param.scale:g}")
    mean = mean * 3 if len(mean) == 1 else mean
    return Normalisation(_three(mean[::-1] if bgr else mean), _three([1 / shortest(param.scale)] * 3))


def _usual_normalisation(graph: CaffeGraph) -> tuple[Normalisation, str]:
    """That of the network whose layers these are, and how it was told; a deploy.prototxt does not say it."""
    convolutions = [node.layer.convolution_param for node in graph.nodes.values() if node.type in CONVOLUTIONS]
    if _is_face_detector(graph):
        return FACE, "OpenCV's for its face detector"
    if "mobilenet" in graph.name.lower() or any(1 < conv.group == conv.num_output for conv in convolutions):
        return MOBILENET, "those of MobileNet-SSD"
    return VGG, "those of VGG"


def _is_face_detector(graph: CaffeGraph) -> bool:
    return {"data_bn", "layer_64_1_conv1_h"} <= set(graph.nodes)


def _class_names(graph: CaffeGraph, count: int) -> tuple[tuple[str, ...], str] | None:
    """Those that the network and the number of classes tell, and whose they are."""
    if count == 1 and _is_face_detector(graph):
        return ("face",), "OpenCV's face detector has one"
    known = {len(VOC_CLASSES): (VOC_CLASSES, "VOC's 20"), len(COCO_CLASSES): (COCO_CLASSES, "COCO's 80")}
    return known.get(count)


def _limit(given: int, anchors: int) -> int:
    """A number of boxes to keep; where it is not positive, all."""
    return given if given > 0 else anchors


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    first, second, third = values
    return first, second, third


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
