"""The end of an SSD of Caffe: from DetectionOutput back to the chains that predict at each level, and its PriorBoxes.

Sources: prior_box_layer.cpp and detection_output_layer.cpp of weiliu89/caffe, branch ssd, and of OpenCV 4, modules/dnn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ssd_edge.box_coding import BoxCoding
from ssd_edge.card import SIGMOID, SOFTMAX
from ssd_edge.errors import ModelFileError
from ssd_edge.importers.caffe_graph import CaffeGraph, Node
from ssd_edge.importers.caffe_layers import shortest
from ssd_edge.models.default_boxes import DefaultBoxConfig

SHAPING = ("Flatten", "Reshape")
TO_CHANNELS_LAST = [0, 2, 3, 1]
SAME_RATIO = 1e-6  # aspect ratios nearer to each other are one
MOST_SHAPES = 256  # default boxes of a cell; SSDs have up to 6


@dataclass(frozen=True)
class CaffeLevel:
    """What predicts at one feature map.

    Attributes:
        feature: the value that is the feature map.
        classes, boxes: the layers behind it, up to the convolutions whose channels are logits and offsets.
        priors: the parameters of its PriorBox.
    """

    feature: str
    classes: tuple[Node, ...]
    boxes: tuple[Node, ...]
    priors: Any


@dataclass(frozen=True)
class Detections:
    """What a DetectionOutput says, and what leads to it.

    Attributes:
        background: the column of the background.
        columns: classes with the background.
    """

    levels: tuple[CaffeLevel, ...]
    columns: int
    background: int
    score_function: str
    param: Any


def detections_of(graph: CaffeGraph) -> Detections:
    """Take the end of a network apart.

    Raises:
        ModelFileError: it is put together otherwise, or DetectionOutput does what ssd-edge does not.
    """
    end = graph.detections
    param = end.layer.detection_output_param
    _check_output(param, graph)
    if len(end.inputs) < 3:
        raise _refused(graph, end, f"reads {len(end.inputs)} values; expected offsets, classes and priors")
    boxes, classes, priors = end.inputs[:3]
    score_function, logits = _logits(graph, classes, param.num_classes)
    branches = [_branches(graph, value) for value in (boxes, logits, priors)]
    if len({len(values) for values in branches}) != 1:
        raise _refused(
            graph, end, "has offsets, classes and priors of {}, {} and {} levels".format(*map(len, branches))
        )
    levels = tuple(_level(graph, *values) for values in zip(*branches, strict=True))
    return Detections(levels, param.num_classes, param.background_label_id, score_function, param)


def _check_output(param: Any, graph: CaffeGraph) -> None:
    """Refuse what ssd-edge has no equal for."""
    wrong = {
        "code_type is not CENTER_SIZE": param.code_type != 2,
        "share_location is false": not param.share_location,
        "num_classes is less than 2": param.num_classes < 2,
        "background_label_id is no class": not 0 <= param.background_label_id < max(param.num_classes, 1),
        "nms_param has an eta other than 1": param.nms_param.eta != 1,
        "nms_threshold is not in 0–1": not 0 < param.nms_param.nms_threshold <= 1,
        "confidence_threshold is 1 or more": not param.confidence_threshold < 1,
    }
    if problems := [problem for problem, holds in wrong.items() if holds]:
        raise _refused(graph, graph.detections, f"cannot be taken over: {', '.join(problems)}")


def _logits(graph: CaffeGraph, value: str, columns: int) -> tuple[str, str]:
    """The function that makes scores, and the value that it reads before it is shaped."""
    found, rows = None, None
    for node in graph.back_from(value):
        if node.type == "Softmax":
            axis = node.layer.softmax_param.axis
        if node.type in ("Softmax", "Sigmoid") and found is None:
            found = node
        elif node.type == "Reshape" and found is not None:
            rows = list(node.layer.reshape_param.shape.dim)
        elif node.type not in SHAPING:
            value = node.name
            break
    if found is None:
        raise _refused(graph, graph.detections, "reads classes without a Softmax or Sigmoid before it")
    if found.type == "Sigmoid":
        return SIGMOID, value
    if rows is None or len(rows) != 3 or rows[2] != columns or axis not in (2, -1):
        raise _refused(
            graph, found, f"is no Softmax over the {columns} classes: expected a Reshape to [0, -1, {columns}], axis 2"
        )
    return SOFTMAX, value


def _branches(graph: CaffeGraph, value: str) -> tuple[str, ...]:
    """The values of all levels, which are concatenated; that of a single level is not."""
    for node in graph.back_from(value):
        if node.type == "Concat":
            return node.inputs
        if node.type not in SHAPING:
            break
    return (value,)


def _level(graph: CaffeGraph, boxes: str, classes: str, priors: str) -> CaffeLevel:
    prior = graph.nodes.get(priors)
    if prior is None or prior.type != "PriorBox":
        raise _refused(graph, graph.detections, f"reads priors of {priors!r}; expected PriorBox layers")
    box_nodes, class_nodes = (_predicting(graph, value) for value in (boxes, classes))
    read = {value: index for index, node in enumerate(class_nodes) for value in node.inputs}
    for index, node in enumerate(box_nodes):
        if node.inputs[0] in read:
            chains = box_nodes[index::-1], class_nodes[read[node.inputs[0]] :: -1]
            break
    else:
        raise ModelFileError(
            f"{graph.path}: offsets {boxes!r} and classes {classes!r} are not made of one feature map; expected "
            "convolutions that read the same"
        )
    for chain in chains:
        for node in chain[:-1]:
            if len(graph.readers(node.name)) != 1:
                raise _refused(graph, node, "is part of what predicts, and read elsewhere too")
    feature = chains[0][0].inputs[0]
    return CaffeLevel(feature, tuple(chains[1]), tuple(chains[0]), prior.layer.prior_box_param)


def _predicting(graph: CaffeGraph, value: str) -> list[Node]:
    """The nodes that make a level's prediction, last first, from the convolution on that Permute turns round."""
    nodes = list(graph.back_from(value))
    shaped = next((index for index, node in enumerate(nodes) if node.type not in SHAPING), len(nodes))
    permute = nodes[shaped] if shaped < len(nodes) else None
    if permute is None or list(permute.layer.permute_param.order) != TO_CHANNELS_LAST:
        raise ModelFileError(
            f"{graph.path}: the predictions {value!r} come in another order than channels last; expected a Permute to "
            f"{TO_CHANNELS_LAST} and a Flatten behind the convolution"
        )
    return [node for node in nodes[shaped + 1 :] if len(node.inputs) == 1]


def default_boxes_of(
    levels: Sequence[CaffeLevel], grids_hw: Sequence[tuple[int, int]], graph: CaffeGraph
) -> DefaultBoxConfig:
    """The default boxes of all PriorBoxes.

    Args:
        grids_hw: rows and columns of each level's feature map.

    Raises:
        ModelFileError: sizes that make no boxes, steps that differ vertically, or levels that differ where ssd-edge has
            one value for all.
    """
    image_hw = graph.size_hw
    shapes, steps = [], []
    for level, grid in zip(levels, grids_hw, strict=True):
        size_hw = _image_size(level.priors, image_hw)
        try:
            shapes.append(_shapes(level.priors, size_hw))
            steps.append(_step(level.priors, size_hw, grid, image_hw))
        except ValueError as error:
            raise ModelFileError(f"{graph.path}: the PriorBox of {level.feature!r} {error}") from error
    for name in ("clip", "offset"):
        if len(values := {getattr(level.priors, name) for level in levels}) > 1:
            raise ModelFileError(f"{graph.path}: PriorBoxes with {name} {sorted(values)}; expected one for all levels")
    priors = levels[0].priors
    # Without steps the boxes of each level tile the image, whose sides may be of different lengths.
    own_steps = any(_has_step(level.priors) for level in levels)
    if own_steps and None in steps:
        raise ModelFileError(f"{graph.path}: a PriorBox without step fits its map in one direction only; give steps")
    try:
        return DefaultBoxConfig(
            steps=tuple(step for step in steps if step is not None) if own_steps else None,
            clip="corners" if priors.clip else False,
            shapes=tuple(shapes),
            offset=shortest(priors.offset),
        )
    except ValueError as error:
        raise ModelFileError(f"{graph.path}: PriorBoxes that make no default boxes: {error}") from error


def box_coding_of(found: Detections, graph: CaffeGraph) -> BoxCoding:
    """The variances of the PriorBoxes; Caffe limits no size.

    Raises:
        ModelFileError: they differ between levels, or are no positive numbers.
    """
    variances = {_variances(level.priors) for level in found.levels}
    if found.param.variance_encoded_in_target:
        variances = {(1.0, 1.0, 1.0, 1.0)}
    if len(variances) > 1:
        raise ModelFileError(
            f"{graph.path}: PriorBoxes with the variances {sorted(variances)!s:.200}; expected one for all levels"
        )
    try:
        return BoxCoding(variances.pop(), max_log_scale=None)  # type: ignore[arg-type]  # it checks that there are four
    except ValueError as error:
        raise ModelFileError(f"{graph.path}: the PriorBoxes have {error}") from error


def _variances(priors: Any) -> tuple[float, ...]:
    """Four; one stands for four, and none for 0.1."""
    values = tuple(map(shortest, priors.variance)) or (0.1,)
    return values * 4 if len(values) == 1 else values


def _image_size(priors: Any, image_hw: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns that sizes and steps are measured in: the image's, where a PriorBox has none of its own."""
    if priors.img_size:
        return priors.img_size, priors.img_size
    return (priors.img_h, priors.img_w) if priors.img_h and priors.img_w else image_hw


def _shapes(priors: Any, size_hw: tuple[int, int]) -> tuple[tuple[float, float], ...]:
    """Width and height of each default box of a cell, as fractions of the image, in Caffe's order.

    For each min_size: the square, the square between it and its max_size, the other aspect ratios. Caffe's own code
    drops the decimals of sizes, OpenCV's does not; the latter is followed.
    """
    smallest, largest = (list(map(shortest, values)) for values in (priors.min_size, priors.max_size))
    if not smallest or (largest and len(largest) != len(smallest)):
        raise ValueError(f"has {len(smallest)} min_size and {len(largest)} max_size; expected one or more, as many")
    if any(size <= 0 for size in (*smallest, *largest)):
        raise ValueError("has a size that is not positive")
    ratios = [1.0]
    for ratio in map(shortest, priors.aspect_ratio):
        if ratio <= 0 or not math.isfinite(ratio):
            raise ValueError(f"has the aspect ratio {ratio}")
        if all(abs(ratio - other) >= SAME_RATIO for other in ratios):
            ratios += [ratio, 1 / ratio] if priors.flip else [ratio]
    found = []
    for index, size in enumerate(smallest):
        found.append((size, size))
        if largest:
            between = math.sqrt(size * largest[index])
            found.append((between, between))
        found += [(size * math.sqrt(ratio), size / math.sqrt(ratio)) for ratio in ratios[1:]]
    if len(found) > MOST_SHAPES:
        raise ValueError(f"makes {len(found)} default boxes a cell; expected up to {MOST_SHAPES}")
    rows, columns = size_hw
    return tuple((width / columns, height / rows) for width, height in found)


def _has_step(priors: Any) -> bool:
    return any(priors.HasField(name) for name in ("step", "step_h", "step_w"))


def _step(priors: Any, size_hw: tuple[int, int], grid_hw: tuple[int, int], image_hw: tuple[int, int]) -> float | None:
    """Pixels of the image between neighbours; None where there is no step and both directions differ."""
    if priors.HasField("step"):
        steps = (shortest(priors.step), shortest(priors.step))
    else:
        steps = (shortest(priors.step_h), shortest(priors.step_w))
    if not all(steps):
        steps = (size_hw[0] / grid_hw[0], size_hw[1] / grid_hw[1])
    vertical, horizontal = (step * image / size for step, image, size in zip(steps, image_hw, size_hw, strict=True))
    if math.isclose(vertical, horizontal, rel_tol=1e-6):
        return horizontal
    if _has_step(priors):
        raise ValueError(f"has steps of {horizontal:g} pixels horizontally and {vertical:g} vertically; expected one")
    return None


def _refused(graph: CaffeGraph, node: Node, why: str) -> ModelFileError:
    return ModelFileError(f"{graph.path}: layer {node.name!r} {why}")
