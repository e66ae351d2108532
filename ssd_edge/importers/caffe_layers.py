"""Caffe's layers as those of `ssd_edge.models.layer_graph`, with their weights.

Caffe's networks read BGR. What reads the image gets its channels turned round, up to the first convolution, so that the
model reads RGB.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssd_edge.errors import ModelFileError
from ssd_edge.importers.caffe_graph import CaffeGraph, Node
from ssd_edge.models.layer_graph import IMAGES, is_name

Blobs = Mapping[str, Sequence[NDArray[np.float32]]]
Description = dict[str, Any]
Converted = tuple[Description, dict[str, Tensor], int]  # with the channels of the value that it makes

CONVOLUTIONS = ("Convolution", "DepthwiseConvolution", "ConvolutionDepthwise")
LONGEST_NAME = 80


class Weights:
    """The blobs of a caffemodel, checked when they are taken.

    Args:
        path: the file, for messages.
    """

    def __init__(self, blobs: Blobs, path: Path) -> None:
        self._blobs, self._path = blobs, path

    def require(self, names: Sequence[str], prototxt: Path) -> None:
        """Check that these layers have weights.

        Raises:
            ModelFileError: some have none.
        """
        missing = [name for name in names if name not in self._blobs]
        if not missing:
            return
        named = ", ".join(missing[:3]) + (" …" if len(missing) > 3 else "")
        fix = "fetch the file again, or give the prototxt that belongs to it"
        if len(missing) == len(names):
            fix = f"it is of another network, with layers such as {', '.join(list(self._blobs)[:3]) or 'none'}"
        raise ModelFileError(
            f"{self._path} has no weights for {len(missing)} of the {len(names)} layers of {prototxt} that need them "
            f"({named}); {fix}"
        )

    def take(self, layer: str, *shapes: tuple[int, ...]) -> list[Tensor]:
        """All blobs of a layer, in these shapes.

        Raises:
            ModelFileError: another number of blobs, or other shapes. Vectors may have the four dimensions of old files.
        """
        blobs = self._blobs[layer]
        found = [(blob.size,) if len(shape) == 1 else blob.shape for blob, shape in zip(blobs, shapes, strict=False)]
        if len(blobs) != len(shapes) or found != list(shapes):
            raise ModelFileError(
                f"{self._path}: the weights of layer {layer!r} have the shapes "
                f"{', '.join(str(list(blob.shape)) for blob in blobs)!s:.200}, expected "
                f"{', '.join(str(list(shape)) for shape in shapes)}; the file belongs to another prototxt"
            )
        return [torch.from_numpy(blob.reshape(shape)) for blob, shape in zip(blobs, shapes, strict=True)]


class Converter:
    """Turns nodes into layers, one after the other, and collects their tensors.

    Args:
        image: the value that the first layers read: the image, or what of it is normalised already.
        signs: 1 or -1 for each of its channels: what it has to be multiplied by. Only convolutions without groups read
            one with a -1.
        bgr: it is read as BGR.

    Attributes:
        layers: the descriptions of what was added.
        tensors: by the names of the model.
        channels: of each value.
        names: the module of each value.
    """

    def __init__(self, graph: CaffeGraph, weights: Weights, *, image: str, signs: Tensor, bgr: bool) -> None:
        self.graph, self.weights = graph, weights
        self._image, self._signs = image, signs
        self.layers: list[Description] = []
        self.tensors: dict[str, Tensor] = {}
        self.channels = {image: 3}
        self.names = {image: IMAGES}
        self._flipped = {image} if bgr else set()

    def add(self, node: Node) -> None:
        """Add a node to the backbone.

        Raises:
            ModelFileError: a layer that is not known, or weights that do not fit.
        """
        name = _module_name(node.name, self.names.values())
        description, tensors, out = self._converted(node)
        self.layers.append({"name": name, "inputs": [self.names[value] for value in node.inputs], **description})
        self.tensors |= {f"backbone.layers.{name}.{key}": value for key, value in tensors.items()}
        self.channels[node.name], self.names[node.name] = out, name

    def chain(self, feature: str, nodes: Sequence[Node], prefix: str) -> tuple[list[Description], int]:
        """Layers behind a feature map as a chain of the head; its last one is without `out`, which is returned.

        Args:
            prefix: of the tensors' names.

        Raises:
            ModelFileError: as `add`; or the last one is no convolution.
        """
        last = nodes[-1] if nodes else None
        if last is None or not reads_all_channels(last):
            raise ModelFileError(
                f"{self.graph.path}: what predicts behind {feature!r} ends in "
                f"{f'layer {last.name!r}, a {last.type}' if last else 'nothing'}; expected a Convolution"
            )
        chain = []
        for index, node in enumerate(nodes):
            description, tensors, self.channels[node.name] = self._converted(node)
            chain.append(description)
            place = prefix if len(nodes) == 1 else f"{prefix}.{index}"
            self.tensors |= {f"{place}.{key}": value for key, value in tensors.items()}
        return chain, chain[-1].pop("out")

    def _converted(self, node: Node) -> Converted:
        """Description, tensors and channels of a node."""
        inputs = node.inputs
        convert = _CONVERTERS.get(node.type)
        if convert is None:
            raise self._refused(node, f"is a {node.type}; known are {', '.join(sorted(_CONVERTERS))}")
        if len(inputs) != 1 and node.type not in ("Concat", "Eltwise"):
            raise self._refused(node, f"reads {len(inputs)} values; a {node.type} is known with one")
        try:
            description, tensors, out = convert(node, [self.channels[value] for value in inputs], self.weights)
        except ValueError as error:
            raise self._refused(node, str(error)) from error
        if self._image in inputs and reads_all_channels(node):
            tensors["weight"] = tensors["weight"] * self._signs[:, None, None]
        if self._flipped & set(inputs):
            tensors = self._turned(node, tensors, out)
        return description, tensors, out

    def _turned(self, node: Node, tensors: dict[str, Tensor], out: int) -> dict[str, Tensor]:
        """The tensors of a layer that reads the image's channels, for RGB instead of BGR."""
        if reads_all_channels(node):
            return {**tensors, "weight": tensors["weight"].flip(1)}
        if node.type == "Concat" or out != 3 or not set(node.inputs) <= self._flipped:
            raise self._refused(node, f"is a {node.type} that reads the image; expected a Convolution without groups")
        self._flipped.add(node.name)
        return {key: value.flip(0) if value.dim() else value for key, value in tensors.items()}

    def _refused(self, node: Node, why: str) -> ModelFileError:
        return ModelFileError(f"{self.graph.path}: layer {node.name!r} {why}")


def reads_all_channels(node: Node) -> bool:
    """Whether it is a convolution without groups."""
    return node.type in CONVOLUTIONS and node.layer.convolution_param.group == 1


def needs_weights(nodes: Collection[Node]) -> list[str]:
    """The layers that have weights in a caffemodel."""
    kinds = (*CONVOLUTIONS, "BatchNorm", "Scale", "Normalize")
    layers = [layer for node in nodes if node.type in kinds for layer in (node.layer, node.scale)]
    return [layer.name for layer in layers if layer is not None]


def affine(node: Node, channels: int, weights: Weights) -> tuple[Tensor, Tensor]:
    """Slope and offset of each channel, float64, of a BatchNorm or Scale node."""
    description, tensors, _ = _CONVERTERS[node.type](node, [channels], weights)
    slope = tensors["weight"].double().flatten()
    offset = tensors["bias"].double()
    if node.type == "BatchNorm":
        slope = slope / (tensors["running_var"].double() + description["eps"]).sqrt()
        offset = offset - slope * tensors["running_mean"].double()
    return slope, offset


def _convolution(node: Node, channels: Sequence[int], weights: Weights) -> Converted:
    param = node.layer.convolution_param
    if param.axis != 1:
        raise ValueError(f"is a convolution along axis {param.axis}; expected 1")
    kernel, stride = _pair(param, "kernel_size", "kernel", 0), _pair(param, "stride", "stride", 1)
    padding, dilation = _pair(param, "pad", "pad", 0), _pair(param, "dilation", "", 1)
    out, groups = param.num_output, param.group
    if not out or 0 in kernel or not groups or channels[0] % groups or out % groups:
        raise ValueError(
            f"is a convolution of {channels[0]} channels to {out} in {groups} groups with a kernel of {kernel}, which "
            "does not fit together"
        )
    description = _conv(out, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups)
    description["bias"] = param.bias_term
    shapes: list[tuple[int, ...]] = [(out, channels[0] // groups, *kernel)]
    names = ["weight"]
    if param.bias_term:
        shapes.append((out,))
        names.append("bias")
    return description, dict(zip(names, weights.take(node.name, *shapes), strict=True)), out


def _conv(
    out: int,
    kernel: Sequence[int],
    *,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int,
) -> Description:
    pairs = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    return {
        "op": "conv",
        "out": out,
        **{name: list(pair) for name, pair in pairs.items()},
        "groups": groups,
        "bias": True,
    }


def _batch_norm(node: Node, channels: Sequence[int], weights: Weights) -> Converted:
    """With the Scale behind it. The third blob is what the statistics are multiples of; 0 stands for none of them."""
    count = channels[0]
    mean, variance, factor = weights.take(node.name, (count,), (count,), (1,))
    unit = 1 / factor if float(factor) else torch.zeros(1)
    weight, bias = torch.ones(count), torch.zeros(count)
    if node.scale is not None:
        weight, bias = _scale_and_bias(node.scale, count, weights)
    tensors = {
        "weight": weight,
        "bias": bias,
        "running_mean": mean * unit,
        "running_var": variance * unit,
        "num_batches_tracked": torch.tensor(0),
    }
    return {"op": "batch_norm", "eps": shortest(node.layer.batch_norm_param.eps)}, tensors, count


def _scale(node: Node, channels: Sequence[int], weights: Weights) -> Converted:
    """A Scale without a BatchNorm: a convolution that reads each channel by itself."""
    count = channels[0]
    weight, bias = _scale_and_bias(node.layer, count, weights)
    return _conv(count, (1, 1), groups=count), {"weight": weight.view(count, 1, 1, 1), "bias": bias}, count


def _scale_and_bias(layer: Any, channels: int, weights: Weights) -> tuple[Tensor, Tensor]:
    param = layer.scale_param
    if param.axis != 1 or param.num_axes != 1:
        raise ValueError(f"has a Scale along {param.num_axes} axes from axis {param.axis}; expected one, axis 1")
    if param.bias_term:
        weight, bias = weights.take(layer.name, (channels,), (channels,))
        return weight, bias
    (weight,) = weights.take(layer.name, (channels,))
    return weight, torch.zeros(channels)


def _normalize(node: Node, channels: Sequence[int], weights: Weights) -> Converted:
    param = node.layer.norm_param
    if param.across_spatial:
        raise ValueError("is a Normalize across positions; expected across_spatial: false")
    (weight,) = weights.take(node.name, (1 if param.channel_shared else channels[0],))
    tensors = {"weight": weight.expand(channels[0]).clone()}
    return {"op": "l2_norm", "eps": shortest(param.eps)}, tensors, channels[0]


def _relu(node: Node, channels: Sequence[int], weights: Weights) -> Converted:
    slope = shortest(node.layer.relu_param.negative_slope)
    description: Description = {"op": "leaky_relu", "slope": slope} if slope else {"op": "relu"}
    return description, {}, channels[0]


def _relu6(node: Node, channels: Sequence[int], weights: Weights) -> Converted:
    return {"op": "relu6"}, {}, channels[0]


def _pooling(node: Node, channels: Sequence[int], weights: Weights) -> Converted:
    param = node.layer.pooling_param
    ops = {param.MAX: "max_pool", param.AVE: "average_pool"}
    op = "global_average_pool" if param.global_pooling and param.pool == param.AVE else ops.get(param.pool)
    if op is None or (param.global_pooling and op == "max_pool"):
        raise ValueError("is a Pooling of another kind than MAX, AVE and global AVE")
    if param.global_pooling:
        return {"op": op}, {}, channels[0]
    kernel = _pair(param, "kernel_size", "kernel", 0)
    if 0 in kernel:
        raise ValueError("is a Pooling without kernel_size")
    stride, padding = _pair(param, "stride", "stride", 1), _pair(param, "pad", "pad", 0)
    return {"op": op, "kernel": list(kernel), "stride": list(stride), "padding": list(padding)}, {}, channels[0]


def _eltwise(node: Node, channels: Sequence[int], weights: Weights) -> Converted:
    param = node.layer.eltwise_param
    if param.operation != param.SUM or any(factor != 1 for factor in param.coeff):
        raise ValueError("is an Eltwise of another kind than SUM without coefficients")
    if len(set(channels)) != 1:
        raise ValueError(f"sums values of {', '.join(map(str, channels))} channels; expected one number of them")
    return {"op": "sum"}, {}, channels[0]


def _concat(node: Node, channels: Sequence[int], weights: Weights) -> Converted:
    param = node.layer.concat_param
    if (param.concat_dim if param.HasField("concat_dim") else param.axis) != 1:
        raise ValueError("is a Concat along another axis than channels, 1")
    return {"op": "concat"}, {}, sum(channels)


_CONVERTERS: Mapping[str, Callable[[Node, Sequence[int], Weights], Converted]] = {
    **dict.fromkeys(CONVOLUTIONS, _convolution),
    "BatchNorm": _batch_norm,
    "Scale": _scale,
    "Normalize": _normalize,
    "ReLU": _relu,
    "ReLU6": _relu6,
    "Pooling": _pooling,
    "Eltwise": _eltwise,
    "Concat": _concat,
}


def _pair(param: Any, both: str, each: str, default: int) -> tuple[int, int]:
    """(vertical, horizontal) of a parameter that may be given once, twice, or as `each`_h and `each`_w."""
    if each and (param.HasField(f"{each}_h") or param.HasField(f"{each}_w")):
        return getattr(param, f"{each}_h") or default, getattr(param, f"{each}_w") or default
    value = getattr(param, both)
    if isinstance(value, int):  # Pooling
        return value, value
    if len(value) > 2:
        raise ValueError(f"has {len(value)} numbers as {both}; expected one or two")
    return (value[0], value[-1]) if value else (default, default)


def shortest(value: float) -> float:
    """A float32 of the file as it was written: 0.45, not 0.44999998807907104."""
    return float(str(np.float32(value)))


def _module_name(layer: str, taken: Collection[str]) -> str:
    """A layer's name as PyTorch allows it, and unlike those that are taken."""
    base = re.sub(r"\W", "_", layer, flags=re.ASCII)[:LONGEST_NAME] or "layer"
    name, number = base, 1
    while name in taken or not is_name(name):
        number += 1
        name = f"{base}_{number}"
    return name
